"""`vae serve` as a process: what it says, and how it ends."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings
from tests.support.processes import VAE, post, served, value, workers_of
from tests.support.services import until


def test_one_line_says_what_is_served_and_where(saved: Callable[[str], Path]) -> None:
    with served(saved("table-mlp-gaussian")) as (address, process):
        assert httpx2.get(f"{address}/model").json()["name"] == "table-mlp-gaussian"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_variables_of_kubernetes_services_are_named_in_one_debug_line(
    saved: Callable[[str], Path], workers: str
) -> None:
    links = {"VAE_PORT": "tcp://10.0.0.1:8000", "VAE_SERVER_SERVICE_HOST": "10.0.0.1"}
    with served(saved("table-mlp-gaussian"), "--workers", workers, VAE_LOG_LEVEL="debug", **links) as (
        address,
        process,
    ):
        assert httpx2.get(f"{address}/health/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        lines = [line for line in process.stderr.read().splitlines() if "Kubernetes" in line]
    assert len(lines) == 1
    assert all(name in lines[0] for name in links)


def test_no_more_is_done_for_a_client_that_has_left(saved: Callable[[str], Path]) -> None:
    with served(saved("grey-conv-gaussian"), VAE_MAX_WORK="2000000") as (address, _):
        work = 128 * 5000
        client = post(address, "/free-energy?samples=5000", [[[0.5] * 8] * 8] * 128)
        until(lambda: value(address, 'vae_batch_rows_count{call="score"}'))
        client.close()
        until(lambda: value(address, 'vae_requests_total{method="POST",route="/free-energy",status="499"}'))
        until(lambda: not value(address, "vae_queue_rows"))
        assert value(address, 'vae_batch_rows_sum{call="score"}') < work
        assert httpx2.get(f"{address}/health/ready").status_code == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_work_in_flight_is_finished_before_the_end(saved: Callable[[str], Path], how: signal.Signals) -> None:
    with served(saved("grey-conv-gaussian")) as (address, process):
        port = int(address.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = b'{"inputs": [' + b",".join([str([[0.5] * 8] * 8).encode()] * 16) + b"]}"
            head = ("POST /free-energy?samples=2000 HTTP/1.1", "Host: x", "Content-Type: application/json")
            client.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            # The metrics tell when the model has begun on it.
            while 'vae_batch_rows_count{call="score"}' not in httpx2.get(f"{address}/metrics").text:
                pass
            process.send_signal(how)
            answer = b""
            while part := client.recv(65536):
                answer += part
        assert b"\r\n\r\n{" in answer
        assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(30) == 0


def test_workers_share_an_address_and_their_totals_and_one_that_dies_is_replaced(saved: Callable[[str], Path]) -> None:
    with served(saved("table-mlp-gaussian"), "--workers", "2") as (address, process):
        samples = 'vae_requests_total{method="GET",route="/sample",status="200"}'
        for _ in range(20):
            assert httpx2.get(f"{address}/sample").status_code == 200
        # The last answer may be here before it is counted.
        until(lambda: value(address, samples) == 20)
        until(lambda: value(address, "vae_ready") == 2)
        before = workers_of(process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(workers_of(process.pid)) - {before[0]}) == 2)
        until(lambda: value(address, "vae_ready") == 2)
        for _ in range(20):
            assert httpx2.get(f"{address}/sample").status_code == 200
        until(lambda: value(address, samples) == 40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert f"worker {before[0]} died" in process.stderr.read()


def test_it_is_not_ready_any_more_some_time_before_it_stops(saved: Callable[[str], Path]) -> None:
    with served(saved("table-mlp-gaussian"), VAE_GRACE="1.5") as (address, process):
        with httpx2.Client() as client:
            assert client.get(f"{address}/health/ready").status_code == 200
            process.send_signal(signal.SIGTERM)
            until(lambda: client.get(f"{address}/health/ready").status_code == 503)
            ready = client.get(f"{address}/health/ready").json()
            assert "about to stop" in ready["detail"]
            for path in ("/sample", "/docs", "/health/live"):
                answer = client.get(f"{address}{path}")
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert process.wait(30) == 0
    with served(saved("table-mlp-gaussian"), VAE_GRACE="600") as (address, process):
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{address}/health/ready").status_code == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_workers_are_replaced_one_by_one_and_no_request_fails(saved: Callable[[str], Path]) -> None:
    with served(saved("table-mlp-gaussian"), "--workers", "2", VAE_GRACE="0.5", VAE_LOG_LEVEL="error") as (
        address,
        process,
    ):
        until(lambda: value(address, "vae_ready") == 2)
        before = set(workers_of(process.pid))
        over = threading.Event()

        def client() -> int:
            asked = 0
            with httpx2.Client() as connection:
                while not over.is_set():
                    answer = connection.post(f"{address}/encode", json={"inputs": [[40.0, 1.7, 70.0 + asked % 7]]})
                    assert answer.status_code == 200, answer.text
                    asked += 1
            return asked

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client) for _ in range(4)]
            process.send_signal(signal.SIGHUP)
            try:
                until(lambda: len(workers_of(process.pid)) == 2 and not before & set(workers_of(process.pid)))
                time.sleep(0.5)
            finally:
                over.set()
        assert min(one.result() for one in clients) > 0
        # Those that were replaced have no more part in what is looked at.
        until(lambda: value(address, "vae_queue_limit_rows") == 2 * Settings(model="").queue_rows)
        assert value(address, "vae_ready") == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_model_that_cannot_be_loaded_ends_workers_with_one_line(tmp_path: Path) -> None:
    command = [*VAE, "serve", str(tmp_path), "--port", "0", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("vae: ")] == done.stderr.splitlines()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("device", "workers"), [("hpu", "1"), ("meta", "1"), ("meta", "2")])
def test_a_device_that_cannot_compute_is_one_line_and_exit_code_one(
    device: str, workers: str, saved: Callable[[str], Path]
) -> None:
    command = [*VAE, "serve", str(saved("table-mlp-gaussian")), "--port", "0", "--device", device, "--workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"vae: device: '{device}' cannot be used here")


@pytest.mark.parametrize(("damage", "workers"), [("a flip", "1"), ("a flip", "2"), ("a pipe", "1")])
def test_a_damaged_model_is_one_line_and_exit_code_one(
    damage: str, workers: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved("table-mlp-gaussian"), tmp_path / "model"))
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    if damage == "a flip":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        os.mkfifo(weights)
    command = [*VAE, "serve", str(folder), "--port", "0", "--workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"vae: {folder}") and "model.safetensors" in done.stderr
