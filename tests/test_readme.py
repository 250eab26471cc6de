"""The shell blocks of the README against a live server; the console blocks of README and docs against the programs."""

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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
CONSOLE = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a `vae serve` process with default settings."""
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
    """Folder in which all blocks were run in order, with the port replaced."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    output = ""
    for block in BLOCKS:
        script = "set -euo pipefail\n" + block.replace("localhost:8000", f"127.0.0.1:{port}")
        script = script.replace("curl -s ", "curl --fail-with-body -sS ")
        run = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{block}\n{run.stdout}\n{run.stderr}"
        output += run.stdout
    (folder / "output.txt").write_text(output)
    return folder


def test_readme_is_one_screen_and_starts_with_the_two_commands() -> None:
    assert len(README.splitlines()) <= 110
    assert len(BLOCKS) == 5
    assert README.index("$ make serve\n$ make test\n") < README.index("curl")


def picture(path: Path) -> Image.Image:
    """Load an image as grey."""
    with Image.open(path) as image:
        return image.convert("L")


def test_the_blocks_write_the_described_files(folder: Path) -> None:
    assert picture(folder / "decoded.png").size == (28, 28)
    assert picture(folder / "samples.png").size == (8 * 28, 8 * 28)
    assert picture(folder / "map.png").size == (28, 28)
    assert (folder / "samples.npz").read_bytes()[:2] == b"PK"
    output = (folder / "output.txt").read_text()
    assert '"free_energy":[' in output
    assert '"regret":[' in output


def test_the_decoded_mean_looks_like_the_image(folder: Path) -> None:
    original = picture(folder / "examples/ankle-boot.png").tobytes()
    decoded = picture(folder / "decoded.png").tobytes()
    error = sum(abs(a - b) for a, b in zip(original, decoded, strict=True)) / len(original)
    contrast = sum(abs(a - sum(original) / len(original)) for a in original) / len(original)
    assert error < contrast / 4


@pytest.mark.parametrize(("page", "line"), CONSOLE)
def test_commands_of_console_blocks_exist(page: str, line: str) -> None:
    assert line.startswith("$ ")
    if target := re.match(r"\$ make (\S+)", line):
        assert f"\n{target[1]}:" in (ROOT / "Makefile").read_text()
    if command := re.match(r"\$ .venv/bin/vae (\S+)", line):
        help_text = subprocess.run(
            [sys.executable, "-c", "from app.cli.main import main; main()", command[1], "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        ).stdout
        for option in re.findall(r"(--\w+)", line):
            assert option in help_text
