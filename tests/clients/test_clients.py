"""Clients in other languages against `vae serve`, over both HTTP paths."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.processes import served

HERE = Path(__file__).parent
IMAGE = HERE.parents[1] / "examples/ankle-boot.png"
COMMANDS = {"node": ["node", "client.mjs"], "java": ["java", "Client.java"]}
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module", params=["fast", "standard"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a service of the default model."""
    with served(Path("fashion-mnist"), VAE_HTTP=request.param) as (url, _):
        yield url


@pytest.mark.parametrize("language", COMMANDS)
def test_a_client_in_another_language(address: str, language: str, tmp_path: Path) -> None:
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    shutil.copy(HERE / command[1], tmp_path)
    done = subprocess.run([*command, address, str(IMAGE)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    encoded = httpx2.post(f"{address}/encode", content=IMAGE.read_bytes(), headers={"Content-Type": "image/png"})
    assert json.loads(done.stdout)["mean"] == pytest.approx(encoded.json()["mean"][0][0], rel=1e-4)
