"""Commands of a Docker engine."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


def run(*command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, **{"cwd": ROOT, **options})


def engine() -> str | None:
    """Reason why no Docker engine is available, or None."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    completed = run("docker", "info", timeout=60)
    return None if completed.returncode == 0 else f"no docker engine answers: {completed.stderr.strip()[-200:]}"


MISSING = engine()


def base() -> str:
    """Base image: BASE_IMAGE if set, else the pinned image, else a local image with the same tag."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    (pinned,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    stand_in = re.sub(r"(:3\.\d+)\.\d+(-.+)@sha256:.+", r"\1\2", pinned)
    here = [name for name in (pinned, stand_in) if run("docker", "image", "inspect", name).returncode == 0]
    return here[0] if here else pinned


def build(tag: str, *options: str, **more: Any) -> str:
    """Build the image with the network of the host, and return its tag."""
    built = run("docker", "build", "--network=host", "--build-arg", f"BASE_IMAGE={base()}", "-t", tag, *options, **more)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return tag


def inspect(thing: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(run("docker", "inspect", thing).stdout)[0]
    return description


def wait_healthy(container: str) -> None:
    """Wait until the health check of the container succeeds, for two minutes at most."""
    deadline = time.monotonic() + 120
    while (status := inspect(container)["State"]["Health"]["Status"]) == "starting":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status == "healthy", inspect(container)["State"]


def free_port() -> int:
    """A free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
