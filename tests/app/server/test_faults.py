"""Faults of worker processes: which requests fail, and which workers are replaced."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support.processes import value, workers_of
from tests.support.services import until

COMMAND = (
    "import app.server.workers; app.server.workers.APPLICATION = 'tests.support.faults:application'; "
    "from app.cli.main import main; main()"
)
BODY = {"inputs": [[40.0, 1.7, 70.0]]}


@contextmanager
def faulty(folder: Path, fault: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Run two workers with the fault that the file names. Yields their address and the id of their supervisor."""
    command = [sys.executable, "-c", COMMAND, "serve", str(folder), "--port", "0", "--threads", "1", "--workers", "2"]
    environ = {**os.environ, "FAULT": str(fault), "VAE_GRACE": "0", "VAE_LOG_LEVEL": "error", **settings}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line
        address = line.split(" at ")[1].split(";")[0]
        try:
            until(lambda: ready(address))
            yield address, process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                process.kill()


def ready(address: str) -> bool:
    """True if both workers are ready; False also while neither accepts connections."""
    try:
        return value(address, "vae_ready") == 2
    except httpx2.TransportError:
        return False


def test_a_worker_whose_model_hangs_is_replaced(saved: Callable[[str], Path], tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with faulty(saved("table-mlp-gaussian"), fault, VAE_HANG_TIMEOUT="1") as (address, parent):
        before = set(workers_of(parent))
        fault.write_text("hang")
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(httpx2.post, f"{address}/encode", json=BODY, timeout=30) for _ in range(4)]
            statuses = {future.result().status_code for future in futures}
        assert statuses == {503}
        fault.unlink()
        until(lambda: len(set(workers_of(parent)) - before) >= 1 and len(workers_of(parent)) == 2)
        until(lambda: ready(address))
        assert httpx2.post(f"{address}/encode", json=BODY).status_code == 200


def test_a_worker_that_dies_while_its_supervisor_waits_for_it_is_replaced(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    with faulty(saved("table-mlp-gaussian"), tmp_path / "fault") as (address, parent):
        for _ in range(2):  # a first worker, and its replacement
            stopped = max(workers_of(parent))
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(1.5)  # by now the supervisor has asked it
            os.kill(stopped, signal.SIGKILL)
            until(lambda: stopped not in (now := workers_of(parent)) and len(now) == 2)  # noqa: B023 - it is called here
            until(lambda: ready(address))


def test_a_failing_call_fails_its_own_requests_only(saved: Callable[[str], Path], tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with faulty(saved("table-mlp-gaussian"), fault) as (address, parent):
        before = workers_of(parent)
        for kind, status, title in (("raise", 500, "Model failed"), ("memory", 503, "Out of memory")):
            fault.write_text(kind)
            response = httpx2.post(f"{address}/encode", json=BODY)
            assert (response.status_code, response.json()["title"]) == (status, title)
            assert httpx2.get(f"{address}/sample").status_code == 200
            fault.unlink()
            assert httpx2.post(f"{address}/encode", json=BODY).status_code == 200
        assert workers_of(parent) == before


def test_a_worker_killed_under_load_is_replaced_and_only_its_requests_fail(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    with faulty(saved("table-mlp-gaussian"), tmp_path / "fault") as (address, parent):
        before = workers_of(parent)
        finished = threading.Event()

        def client() -> tuple[int, int]:
            good = failed = 0
            while not finished.is_set():
                try:
                    with httpx2.Client() as connection:
                        while not finished.is_set():
                            assert connection.post(f"{address}/encode", json=BODY).status_code == 200
                            good += 1
                except httpx2.TransportError:
                    failed += 1
            return good, failed

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client) for _ in range(4)]
            try:
                os.kill(before[0], signal.SIGKILL)
                until(lambda: len(set(workers_of(parent)) - {before[0]}) == 2)
                until(lambda: ready(address))
            finally:
                finished.set()
        for good, failed in (future.result() for future in clients):
            assert good > 0
            assert failed <= 2, "requests failed that no killed worker was computing"
