"""The application of a worker whose model fails as a file says, for tests that need processes of their own.

The file that `FAULT` names holds `hang`, `raise`, `memory` or `die`; where there is none, nothing is wrong. A process
that is younger than the file has no fault: one that takes the place of another must not hang before it serves.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from app.inference.batcher import Call
from app.inference.functions import ModelFunctions
from app.server import workers


def application() -> FastAPI:
    """As `app.server.workers.application`, with faults in /encode."""
    build, born = ModelFunctions.build, time.time()

    def build_with_faults(self: ModelFunctions) -> dict[str, Call]:
        functions = build(self)
        inner = functions["encode"]

        def encode(x: np.ndarray[Any, Any]) -> Any:
            file = Path(os.environ["FAULT"])
            fault = file.read_text() if file.exists() and file.stat().st_mtime >= born else ""
            if fault == "hang":
                time.sleep(600)
            elif fault == "raise":
                raise RuntimeError("a fault")
            elif fault == "memory":
                raise MemoryError("Unable to allocate 1 TiB")
            elif fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(x)

        return {**functions, "encode": encode}

    ModelFunctions.build = build_with_faults  # type: ignore[method-assign]
    return workers.application()
