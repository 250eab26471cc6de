"""Several processes that serve one model at one address: uvicorn's supervisor, and what each of its workers runs."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import uvicorn
from fastapi import FastAPI
from prometheus_client import multiprocess
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.observability.metrics import MULTIPROCESS_DIR
from app.settings import PREFIX, Settings
from model.errors import VAEError

#: Where uvicorn finds `application`.
APPLICATION = f"{__name__}:application"
log = logging.getLogger("vae")


def application() -> FastAPI:
    """The application of one worker, by the settings that are in its environment."""
    from app.main import create_app
    from model import checkpoint

    settings = Settings.load()
    settings.configure_logging()
    try:
        return create_app(settings, checkpoint.load(Path(settings.model)))
    except VAEError as error:
        print(f"vae: {error}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)


def run(settings: Settings, config: uvicorn.Config, listener: socket, line: str) -> int:
    """Serve until told to stop; a worker that dies is replaced.

    Args:
        config: of `settings.workers` workers, of an application that is found by its name.
        listener: the socket that all of them take connections from.
        line: said once when all answer.

    Returns: the exit status, 1 where the first worker could not start.
    """
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[PREFIX + name.upper()] = str(value)
    with tempfile.TemporaryDirectory(prefix="vae-metrics-") as folder:
        os.environ[MULTIPROCESS_DIR] = folder
        supervisor = _Supervisor(config, [listener], line)
        supervisor.run()
        return 0 if supervisor.served else 1


class _Supervisor(Multiprocess):
    def __init__(self, config: uvicorn.Config, sockets: list[socket], line: str) -> None:
        super().__init__(config, sockets)
        self.line = line
        self.served = False

    def init_processes(self) -> None:
        """The first alone: what is wrong with a model is then said once."""
        self._add()
        if not self._wait(self.processes[0]):
            self.should_exit.set()
            return
        for _ in range(self.processes_num - 1):
            self._add()
        if all(self._wait(process) for process in self.processes):
            self.served = True
            print(self.line, flush=True)

    def _add(self) -> None:
        process = Process(self.config, self.sockets)
        process.start()
        self.processes.append(process)

    def _wait(self, process: Process) -> bool:
        while process.process.is_alive() and not self.should_exit.is_set():
            self.handle_signals()
            if process.wait_until_ready(0.5, self.should_exit):
                return True
        return False

    def keep_subprocess_alive(self) -> None:
        with self._replacing() as gone:
            super().keep_subprocess_alive()
        for pid in gone:
            log.error("worker %d died; another takes its place", pid)

    def restart_all(self) -> None:
        with self._replacing():
            super().restart_all()

    def handle_ttou(self) -> None:
        with self._replacing():
            super().handle_ttou()

    @contextmanager
    def _replacing(self) -> Iterator[list[int]]:
        """The workers that are gone when this ends; what they told of themselves is no longer in the metrics."""
        before, gone = {process.pid for process in self.processes}, list[int]()
        yield gone
        for pid in before - {process.pid for process in self.processes}:
            assert pid is not None
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
            gone.append(pid)
