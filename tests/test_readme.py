"""The README's shell blocks, run against a live server of the shipped model."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of `vae serve` as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    command = [sys.executable, "-c", "from app.cli.main import main; main()", "serve", "--port", str(number)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("vae-server serves fashion-mnist (28x28 grey images")
        assert f"at http://127.0.0.1:{number};" in line
        yield number
        server.terminate()
        assert server.wait(30) == 0


@pytest.fixture(scope="module")
def folder(port: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all blocks have been run, in order, as they stand but for the port."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    said = ""
    for block in BLOCKS:
        script = "set -euo pipefail\n" + block.replace("localhost:8000", f"127.0.0.1:{port}")
        script = script.replace("curl -s ", "curl --fail-with-body -sS ")
        done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    (folder / "said.txt").write_text(said)
    return folder


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) == 5
    assert README.index("make serve") < README.index("curl")


def picture(path: Path) -> Image.Image:
    """A grey image, read whole."""
    with Image.open(path) as image:
        return image.convert("L")


def test_the_pictures_are_what_the_text_says(folder: Path) -> None:
    assert picture(folder / "decoded.png").size == (28, 28)
    assert picture(folder / "samples.png").size == (8 * 28, 8 * 28)
    assert picture(folder / "map.png").size == (28, 28)
    assert (folder / "samples.npz").read_bytes()[:2] == b"PK"
    said = (folder / "said.txt").read_text()
    assert '"free_energy":[' in said
    assert '"regret":[' in said


def test_the_decoded_mean_looks_like_the_image(folder: Path) -> None:
    original = picture(folder / "examples/ankle-boot.png").tobytes()
    decoded = picture(folder / "decoded.png").tobytes()
    error = sum(abs(a - b) for a, b in zip(original, decoded, strict=True)) / len(original)
    contrast = sum(abs(a - sum(original) / len(original)) for a in original) / len(original)
    assert error < contrast / 4


def test_the_commands_of_the_console_blocks_exist() -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    makefile = (ROOT / "Makefile").read_text()
    for line in "".join(blocks).splitlines():
        assert line.startswith("$ ")
        if target := re.match(r"\$ make (\S+)", line):
            assert f"\n{target[1]}:" in makefile
        if command := re.match(r"\$ .venv/bin/vae (\S+)", line):
            said = subprocess.run(
                [sys.executable, "-c", "from app.cli.main import main; main()", command[1], "--help"],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
            ).stdout
            for option in re.findall(r"(--\w+)", line):
                assert option in said
