"""Clients of other languages and libraries against `vae serve`, over both HTTP paths."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import checkpoint
from tests.support.processes import served

HERE = Path(__file__).parent
IMAGE = HERE.parents[1] / "examples/ankle-boot.png"
MODEL = Path("fashion-mnist")
TYPES = {"picture.png": "image/png", "body.json": "application/json", "body.npy": "application/x-npy"}
#: Commands by program. Each takes the address and the folder of the bodies, and prints its answers by name.
PROGRAMS = {
    "node": ["node", "client.mjs"],
    "java": ["java", "Client.java"],
    "requests": [sys.executable, "client.py", "requests"],
    "httpx": [sys.executable, "client.py", "httpx"],
}
#: Options of curl, by the way in which it sends a body.
CHUNKED, EXPECT = ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")
WAYS = {
    "HTTP/1.0": ("--http1.0",),
    "HTTP/1.1": ("--http1.1",),
    "offer of HTTP/2": ("--http2",),
    "chunked": CHUNKED,
    "chunked, offer of HTTP/2": (*CHUNKED, "--http2"),
    "expect": EXPECT,
    "expect, offer of HTTP/2": (*EXPECT, "--http2"),
    "offer of WebSocket": ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
    "close": ("-H", "Connection: close"),
}
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module", params=["fast", "standard"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a service of the default model."""
    with served(MODEL, VAE_HTTP=request.param, VAE_LOG_LEVEL="warning") as (url, _):
        yield url


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one image as a picture, as JSON and as npy."""
    folder = tmp_path_factory.mktemp("bodies")
    shutil.copy(IMAGE, folder / "picture.png")
    pixels = np.asarray(Image.open(IMAGE))[None]
    np.save(folder / "body.npy", pixels)
    (folder / "body.json").write_text(json.dumps({"inputs": (pixels / 255).tolist()}))
    return folder


@pytest.fixture(scope="module")
def encoded() -> dict[str, Any]:
    """Q of the image, computed by the model itself."""
    x = torch.from_numpy(np.asarray(Image.open(IMAGE), np.float32) / 255)[None, None]
    q = checkpoint.load(MODEL).vae.encode(x)
    return {"mean": q.mean.numpy(), "variance": q.variance.numpy()}


def check(answer: dict[str, Any], encoded: dict[str, Any], what: str) -> None:
    assert answer.keys() == encoded.keys(), what
    for name, values in encoded.items():
        np.testing.assert_allclose(answer[name], values, rtol=1e-3, atol=1e-4, err_msg=what)


def is_installed(name: str) -> bool:
    command = PROGRAMS[name][0]
    return (
        importlib.util.find_spec(name) is not None if command == sys.executable else shutil.which(command) is not None
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(address: str, bodies: Path, encoded: dict[str, Any], name: str) -> None:
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    command, file, *options = PROGRAMS[name]
    words = [command, str(HERE / file), *options, address, str(bodies)]
    done = subprocess.run(words, cwd=bodies, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout)
    assert answers.keys() >= {"picture", "json", "npy"}
    for what, answer in answers.items():
        check(answer, encoded, what)


def curl(*options: str) -> dict[str, Any]:
    """The answer to a request of curl."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", TYPES)
def test_curl(address: str, bodies: Path, encoded: dict[str, Any], file: str, way: str) -> None:
    content = ("-H", f"Content-Type: {TYPES[file]}", "--data-binary", f"@{bodies / file}")
    check(curl(f"{address}/encode", *content, *WAYS[way]), encoded, way)


@pytest.mark.parametrize("way", WAYS)
def test_curl_with_a_form(address: str, bodies: Path, encoded: dict[str, Any], way: str) -> None:
    part = f"inputs=@{bodies / 'picture.png'};type=image/png"
    check(curl(f"{address}/encode", "-F", part, *WAYS[way]), encoded, way)


def test_curl_sends_two_bodies_over_one_connection(address: str, bodies: Path) -> None:
    """The first offers HTTP/2."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    one = ["-H", "Content-Type: image/png", "--data-binary", f"@{bodies / 'picture.png'}", f"{address}/encode"]
    status = ["-s", "-o", "/dev/null", "-w", "%{http_code} %{http_version} %{num_connects}\n"]
    command = ["curl", "--http2", *status, *one, "--next", "--http2", *status, *one]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["200 1.1 1", "200 1.1 0"]
