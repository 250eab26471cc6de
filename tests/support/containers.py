"""A Docker engine for the tests that need one, and what they all ask of it."""

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
    """Why there is no engine, or None where one answers."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    said = run("docker", "info", timeout=60)
    return None if said.returncode == 0 else f"no docker engine answers: {said.stderr.strip()[-200:]}"


MISSING = engine()


def base() -> str:
    """What the image is built on: BASE_IMAGE, or the pinned base; or, where that is not, what goes by its name here."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    (pinned,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    stand_in = re.sub(r"(:3\.\d+)\.\d+(-.+)@sha256:.+", r"\1\2", pinned)
    here = [name for name in (pinned, stand_in) if run("docker", "image", "inspect", name).returncode == 0]
    return here[0] if here else pinned


def build(tag: str, *options: str, **more: Any) -> str:
    """An image that is built here; where its base has to be built with the host's network, so is this."""
    built = run("docker", "build", "--network=host", "--build-arg", f"BASE_IMAGE={base()}", "-t", tag, *options, **more)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return tag


def inspect(thing: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("docker", "inspect", thing).stdout)[0]
    return found


def wait_healthy(container: str) -> None:
    """Until its health check says so, for two minutes at most."""
    deadline = time.monotonic() + 120
    while (status := inspect(container)["State"]["Health"]["Status"]) == "starting":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status == "healthy", inspect(container)["State"]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
