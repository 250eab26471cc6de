"""Application of a worker whose model fails on command, for tests that need processes of their own.

The environment variable `FAULT` names a file that holds `hang`, `raise`, `memory` or `die`. Without the file there is
no fault. A process younger than the file has no fault either, so that the replacement of a failed worker works.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app import main
from app.inference import engine
from app.inference.batcher import Batcher, Call
from app.inference.jobs import Array, Arrays


class FaultyCall:
    """A call with the fault that the file names."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._created = time.time()
        self._file = Path(os.environ["FAULT"])

    def __call__(self, x: Array) -> Arrays:
        armed = self._file.exists() and self._file.stat().st_mtime >= self._created
        match self._file.read_text() if armed else "":
            case "hang":
                time.sleep(600)
            case "raise":
                raise RuntimeError("a fault")
            case "memory":
                raise MemoryError("Unable to allocate 1 TiB")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return self._call(x)


class FaultyBatcher(Batcher):
    """A batcher with a FaultyCall in place of the call of /encode."""

    def __init__(self, calls: Mapping[str, Call], **options: Any) -> None:
        super().__init__({**calls, "encode": FaultyCall(calls["encode"])}, **options)


def application() -> FastAPI:
    """Return the application of one worker process, with a FaultyBatcher."""
    engine.Batcher = FaultyBatcher  # type: ignore[attr-defined]
    return main.worker_application()
