"""Faults in processes that serve: what fails, what goes on, and what is replaced."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.app.cli.test_serve import until, value, workers_of

COMMAND = (
    "import app.server.workers; app.server.workers.APPLICATION = 'tests.app.faults:application'; "
    "from app.cli.main import main; main()"
)
BODY = {"inputs": [[40.0, 1.7, 70.0]]}


@contextmanager
def faulty(folder: Path, fault: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Two workers whose model fails as the file says: their address, and the process above them."""
    command = [sys.executable, "-c", COMMAND, "serve", str(folder), "--port", "0", "--threads", "1", "--workers", "2"]
    environ = {**os.environ, "FAULT": str(fault), "VAE_GRACE": "0", "VAE_LOG_LEVEL": "error", **settings}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line
        address = line.split(" at ")[1].split(";")[0]
        try:
            until(lambda: value(address, "vae_ready") == 2)
            yield address, process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                process.kill()


def test_a_worker_whose_model_hangs_is_replaced(saved: Callable[[str], Path], tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with faulty(saved("table-mlp-gaussian"), fault, VAE_HANG_TIMEOUT="1") as (address, parent):
        before = set(workers_of(parent))
        fault.write_text("hang")
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(httpx2.post, f"{address}/encode", json=BODY, timeout=30) for _ in range(4)]
            statuses = {one.result().status_code for one in asked}
        assert statuses == {503}, "they were not told"
        fault.unlink()
        until(lambda: len(set(workers_of(parent)) - before) >= 1 and len(workers_of(parent)) == 2)
        until(lambda: value(address, "vae_ready") == 2)
        assert httpx2.post(f"{address}/encode", json=BODY).status_code == 200


def test_a_call_that_fails_costs_its_own_requests_alone(saved: Callable[[str], Path], tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with faulty(saved("table-mlp-gaussian"), fault) as (address, parent):
        before = workers_of(parent)
        for kind, status, title in (("raise", 500, "Model failed"), ("memory", 503, "Out of memory")):
            fault.write_text(kind)
            refused = httpx2.post(f"{address}/encode", json=BODY)
            assert (refused.status_code, refused.json()["title"]) == (status, title)
            assert httpx2.get(f"{address}/sample").status_code == 200
            fault.unlink()
            assert httpx2.post(f"{address}/encode", json=BODY).status_code == 200
        assert workers_of(parent) == before


def test_a_worker_that_is_killed_under_load_is_back_and_only_its_requests_fail(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    with faulty(saved("table-mlp-gaussian"), tmp_path / "fault") as (address, parent):
        before = workers_of(parent)
        over = threading.Event()

        def client() -> tuple[int, int]:
            good = failed = 0
            while not over.is_set():
                try:
                    with httpx2.Client() as connection:
                        while not over.is_set():
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
                until(lambda: value(address, "vae_ready") == 2)
            finally:
                over.set()
        for good, failed in (one.result() for one in clients):
            assert good > 0
            assert failed <= 2, "more failed than were under way"
