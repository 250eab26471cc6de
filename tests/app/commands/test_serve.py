"""`vae serve` as a process: what it says, and how it ends."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

VAE = [sys.executable, "-c", "from app.cli import main; main()"]


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A server of this model on a free port: its address, and its process."""
    command = [*VAE, "serve", str(folder), "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, process.stderr.read() if process.stderr else ""
        try:
            yield line.split(" at ")[1].split(";")[0], process
        finally:
            if process.poll() is None:
                process.kill()


def test_one_line_says_what_is_served_and_where(saved: Callable[[str], Path]) -> None:
    with served(saved("table-mlp-gaussian")) as (address, process):
        assert httpx2.get(f"{address}/model").json()["name"] == "table-mlp-gaussian"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


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
