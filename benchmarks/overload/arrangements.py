"""Arrangements of the service that are measured: one worker, two workers, and two services behind the proxy."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overload.cells import CELLS

PROXY_CONFIGURATION = Path(__file__).parents[2] / "deploy/haproxy.cfg"
#: Seconds until a service must answer.
START_S = 120.0
SHORT = ("1x16", "64x64", "mix")
#: Cells of each arrangement.
ARRANGEMENTS: dict[str, tuple[str, ...]] = {"single": CELLS, "workers": SHORT, "proxy": SHORT}
DESCRIPTIONS = {
    "single": "one worker with one thread on the first core, the generator on the second",
    "workers": "two workers with one thread each on both cores, which the generator shares",
    "proxy": "two services with one thread each behind HAProxy (deploy/haproxy.cfg) on both cores, which the "
    "generator shares",
}


@dataclass(frozen=True)
class Deployment:
    """A running arrangement."""

    port: int
    sessions: tuple[int, ...]  # of the processes of the service, without the proxy
    metrics_port: int | None  # None where no one service has all metrics
    models: int  # processes that compute

    def pids(self) -> list[int]:
        """Return all processes of the service."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and os.getsid(int(folder.name)) in self.sessions:
                    found.append(int(folder.name))
            except ProcessLookupError:
                continue
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[str], cores: Sequence[int], **environment: str) -> Iterator[int]:
    """Run a command on some cores, in a session of its own; yield its process id."""
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
    with subprocess.Popen(pinned, env={**os.environ, **environment}, start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(15)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


@contextmanager
def service(model: str, cores: Sequence[int], workers: int = 1) -> Iterator[tuple[int, int]]:
    """Run a service; yield its port and process id when it is ready."""
    port = free_port()
    start = [sys.executable, "-c", "from app.cli.main import main; main()", "serve", model]
    options = ["--port", str(port), "--workers", str(workers), "--threads", "1"]
    with running([*start, *options], cores, VAE_LOG_LEVEL="error", VAE_GRACE="0") as pid:
        wait_ready(port)
        yield port, pid


def wait_ready(port: int) -> None:
    """Wait until /health/ready comes to 200."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                return
        except (OSError, urllib.error.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def proxy_configuration(deployed: str, port: int, services: Sequence[int]) -> str:
    """Return the configuration of the proxy with addresses of this machine instead of those of the containers."""
    found = deployed.replace("bind :8000", f"bind 127.0.0.1:{port}")
    for name, own in zip("ab", services, strict=True):
        found = found.replace(f"vae-{name}:8000", f"127.0.0.1:{own}")
    # The addresses are numbers, so there is no name to resolve.
    found = re.sub(r"^resolvers .*?(?=^\S)", "", found, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r" resolvers \S+ init-addr \S+", "", found)


@contextmanager
def proxy(services: Sequence[int], cores: Sequence[int]) -> Iterator[int]:
    """Run the proxy; yield its port when it is ready."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        sys.exit("haproxy is not installed; run apt-get install haproxy, or choose --arrangement single or workers")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(proxy_configuration(PROXY_CONFIGURATION.read_text(), port, services))
        with running([program, "-db", "-f", str(path)], cores):
            wait_ready(port)
            yield port


@contextmanager
def deployed(arrangement: str, model: str, cores: Sequence[int]) -> Iterator[Deployment]:
    """Run an arrangement and pin this process, the generator, to its cores."""
    both = list(cores[:2])
    os.sched_setaffinity(0, both[1:] if arrangement == "single" else both)
    with ExitStack() as stack:
        if arrangement == "single":
            port, pid = stack.enter_context(service(model, both[:1]))
            yield Deployment(port, (pid,), port, models=1)
        elif arrangement == "workers":
            port, pid = stack.enter_context(service(model, both, workers=2))
            yield Deployment(port, (pid,), port, models=2)
        else:
            started = [stack.enter_context(service(model, both)) for _ in range(2)]
            port = stack.enter_context(proxy([port for port, _ in started], both))
            yield Deployment(port, tuple(pid for _, pid in started), None, models=2)
