"""Several processes that serve one model at one address, under uvicorn's supervisor."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

import uvicorn
from prometheus_client import multiprocess
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.observability.metrics import MULTIPROCESS_DIR
from app.settings import PREFIX, Settings

#: Import path of the application of a worker.
APPLICATION = "app.main:worker_application"
log = logging.getLogger("vae")


def run(settings: Settings, config: uvicorn.Config, listeners: list[socket], line: str) -> int:
    """Serve on these sockets until a signal stops the service, and replace each worker that dies.

    Prints `line` when all workers answer. Returns the exit status: 1 if the first worker could not start.
    """
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[PREFIX + name.upper()] = str(value)
    with tempfile.TemporaryDirectory(prefix="vae-metrics-") as folder:
        os.environ[MULTIPROCESS_DIR] = folder
        supervisor = _Supervisor(config, listeners, line)
        supervisor.run()
        return 0 if supervisor.served else 1


class _Supervisor(Multiprocess):
    def __init__(self, config: uvicorn.Config, sockets: list[socket], line: str) -> None:
        super().__init__(config, sockets)
        self.line = line
        self.served = False

    def init_processes(self) -> None:
        """Start the first worker alone, so that an invalid model is reported once."""
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
        _close_end_of_worker(process)
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
        """Remove workers that end in this context from the metrics. Yield the list that receives their ids."""
        before, gone = {process.pid for process in self.processes}, list[int]()
        yield gone
        for process in self.processes:
            _close_end_of_worker(process)
        for pid in before - {process.pid for process in self.processes}:
            assert pid is not None
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
            gone.append(pid)


def _close_end_of_worker(process: Process) -> None:
    """Close the supervisor's copy of the worker's end of their pipe; else the supervisor waits for a dead worker."""
    process.child_conn.close()
