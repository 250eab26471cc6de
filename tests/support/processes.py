"""`vae serve` as a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

VAE = [sys.executable, "-c", "from app.cli.main import main; main()"]


@contextmanager
def served(folder: Path, *options: str, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a server of this model on a free port. Yields its address and its process."""
    command = [*VAE, "serve", str(folder), "--port", "0", "--threads", "1", *options]
    environ = {**os.environ, "VAE_GRACE": "0", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, process.stderr.read() if process.stderr else ""
        try:
            yield line.split(" at ")[1].split(";")[0], process
        finally:
            if process.poll() is None:
                process.kill()


def post(address: str, path: str, inputs: object) -> socket.socket:
    """Send a request, and return the connection on which the response arrives."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    body = json.dumps({"inputs": inputs}).encode()
    head = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
    client = socket.create_connection((host, int(port)))
    client.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return client


def value(address: str, name: str) -> float:
    """Sum of the samples of a metric; 0 if there is none."""
    lines = httpx2.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def workers_of(parent: int) -> list[int]:
    """Ids of the living worker processes of a supervisor."""
    found = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just gone
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found
