"""The image and the Compose file, with a real engine: built, started, used through the published port, stopped."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

ROOT = Path(__file__).parents[1]
BASE = os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm")


def run(*command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def engine() -> str | None:
    """Why there is no engine, or None where one answers."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    said = run("docker", "info", timeout=60)
    return None if said.returncode == 0 else f"no docker engine answers: {said.stderr.strip()[-200:]}"


MISSING = engine()
pytestmark = [pytest.mark.docker, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built as the README says; where the base has to be built with the host's network, so is this."""
    built = run("docker", "build", "--network=host", "--build-arg", f"BASE_IMAGE={BASE}", "-t", "vae-server", ".")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return "vae-server"


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[tuple[str, str]]:
    """The address of the service that compose started, and the id of its container."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project = ["-p", f"vae-test-{os.getpid()}"]
    env = {**os.environ, "PORT": str(port)}
    up = run(*COMPOSE, *project, "up", "-d", "--no-build", env=env)
    try:
        assert up.returncode == 0, up.stderr
        container = run(*COMPOSE, *project, "ps", "-q", "vae", env=env).stdout.strip()
        yield f"http://127.0.0.1:{port}", container
    finally:
        run(*COMPOSE, *project, "down", "-t", "40", env=env)


def inspect(thing: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("docker", "inspect", thing).stdout)[0]
    return found


def test_the_image_is_small_and_runs_as_nobody_in_particular(image: str) -> None:
    about = inspect(image)
    assert about["Size"] - inspect(BASE)["Size"] <= 1.1e9
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Healthcheck"]


def test_compose_serves_and_turns_healthy(service: tuple[str, str]) -> None:
    _, container = service
    deadline = time.monotonic() + 120
    while (status := inspect(container)["State"]["Health"]["Status"]) == "starting":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status == "healthy", inspect(container)["State"]


def test_it_is_confined(service: tuple[str, str]) -> None:
    _, container = service
    limits = inspect(container)["HostConfig"]
    assert limits["ReadonlyRootfs"]
    assert limits["CapDrop"] == ["ALL"]
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert limits["Memory"] > 0
    assert limits["NanoCpus"] > 0
    assert run("docker", "exec", container, "touch", "/opt/vae/x").returncode != 0
    assert run("docker", "exec", container, "id", "-u").stdout.strip() == "10001"


def test_an_image_is_encoded_through_the_published_port(service: tuple[str, str]) -> None:
    address, _ = service
    body = (ROOT / "examples/ankle-boot.png").read_bytes()
    response = httpx2.post(f"{address}/encode", content=body, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    card = httpx2.get(f"{address}/model").json()
    assert card["name"] == "fashion-mnist"
    assert len(response.json()["mean"][0]) == card["latent"]


def test_it_stops_cleanly_when_told_to(service: tuple[str, str]) -> None:
    _, container = service
    assert run("docker", "stop", "-t", "30", container).returncode == 0
    state = inspect(container)["State"]
    assert state["ExitCode"] == 0, run("docker", "logs", container)
    assert not state["OOMKilled"]
