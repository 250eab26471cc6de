"""A full disk: one line names the file and the remedy, nothing is lost, and the repeated command resumes."""

import io
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from app.cli import main as cli
from model import checkpoint
from model.checkpoint import Checkpoint
from tests.support.commands import SMALL
from tests.support.data import squares
from tests.support.models import reference

PAGE = os.sysconf("SC_PAGESIZE")
TABLE = "table-mlp-gaussian"


class Disk:
    """A small disk, and a file that fills it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ballast = root / "ballast"

    @property
    def pages(self) -> int:
        """Number of free pages."""
        about = os.statvfs(self.root)
        return about.f_bavail * about.f_frsize // PAGE

    def leave(self, pages: int) -> None:
        """Fill the disk until exactly this number of pages is free."""
        self.ballast.write_bytes(b"")
        with self.ballast.open("wb") as file:
            for _ in range(self.pages - pages):
                file.write(bytes(PAGE))
        assert self.pages == pages


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A mounted tmpfs; skip the test if mounting is not allowed."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def vae(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str | None]:
    """Function that runs a command like its process: None on success, else the error line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str | None:
        message = io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["vae", *map(str, arguments)])
            patched.setattr(sys, "stdout", io.StringIO())
            patched.setattr(sys, "stderr", message)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        assert ended.value.code in {None, 0, 1}
        return line(message.getvalue()) if ended.value.code else None

    return run


def line(message: str) -> str:
    """The error message of a command, which must be one line."""
    assert message.startswith("vae: ") and len(message.splitlines()) == 1, message
    return message.rstrip()


@pytest.fixture
def limit() -> Iterator[Callable[[int | None], None]]:
    """Function that limits the size of files in bytes, like a quota; needs no mounted disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def to(most: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual if most is None else (most, usual[1]))

    yield to
    to(None)


def train(data: Path, out: Path) -> tuple[object, ...]:
    return ("train", data, "--out", out, "--set-aside", "100", *SMALL)


def outcome(run: Path) -> dict[str, Any]:
    """Digest of the model and tensors of the state."""
    with safetensors.safe_open(run / "state.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
    return {"digest": checkpoint.load(run).digest, "state": state}


def leftovers(folder: Path) -> list[str]:
    """Files that were not written completely."""
    return [str(path) for path in folder.rglob(".*")]


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of all files of a folder by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "squares.npy"
    np.save(path, squares(300))
    return path


def sweep(disk: Disk, run: Path, command: tuple[object, ...], vae: Callable[..., str | None]) -> set[str]:
    """Repeat a training with a little more free space each time, until it succeeds; names of the files that failed."""
    places, space = set[str](), 0
    while space < 400:
        disk.leave(space)
        message = vae(*command)
        assert not leftovers(run)
        if message is None:
            return places
        assert re.search("No space left on device.*make room.*(run|repeat) the command", message)
        places.add(Path(message.split(": ")[1]).name)
        if places - {run.name, "checkpoint"} or (run / "checkpoint").exists():
            checkpoint.load(run)
        for picture in run.glob("plots/*"):
            assert picture.read_bytes().endswith(b"IEND\xaeB\x60\x82")
        space = disk.pages + 6
    raise AssertionError("the training never ended")


def test_training_resumes_after_any_number_of_full_disks(
    disk: Disk, data: Path, tmp_path: Path, vae: Callable[..., str | None]
) -> None:
    assert vae(*train(data, tmp_path / "whole")) is None
    run = disk.root / "run"
    assert sweep(disk, run, train(data, run), vae) >= {"checkpoint", "state.safetensors"}
    assert outcome(run) == outcome(tmp_path / "whole")
    # A finished run writes table and plots again when its command is repeated.
    shutil.rmtree(run / "plots")
    assert sweep(disk, run, train(data, run), vae) >= {"metrics.csv", "plots"}
    assert outcome(run) == outcome(tmp_path / "whole")
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint", "metrics.csv", "plots", "state.safetensors"]


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "report", "pictures", "score", "flag"])
def test_a_failed_command_changes_nothing_and_succeeds_with_more_space(
    command: str, disk: Disk, tmp_path: Path, calibrated: Callable[[str], Checkpoint], vae: Callable[..., str | None]
) -> None:
    model, out = disk.root / "model", disk.root / "out"
    shutil.copytree(calibrated(TABLE).folder, model)
    np.save(tmp_path / "rows.npy", reference(TABLE, 150, seed=3))
    rows = tmp_path / "rows.npy"
    evaluate = ("evaluate", model, rows, "--samples", "2", "--detection", "0")
    commands = {
        "calibrate": ("calibrate", model, rows, "--samples", "2"),
        "evaluate": (*evaluate, "--save"),
        "report": (*evaluate, "--out", out / "file"),
        "pictures": (*evaluate, "--plots", out),
        "score": ("score", model, rows, "--out", out / "file"),
        "flag": ("score", model, rows, "--out", out / "file", "--flag", "0.1"),
    }
    out.mkdir()
    for name in ("file", "free_energy.png"):
        (out / name).write_bytes(b"what was there before")
    before = {folder: contents(folder) for folder in (model, out)}
    failures = 0
    for space in (*range(40), 400):
        disk.leave(space)
        message = vae(*commands[command])
        assert not leftovers(disk.root)
        if message is None:
            break
        failures += 1
        place = model if command in {"calibrate", "evaluate"} else out
        assert "No space left on device" in message and "make room" in message and str(place) in message
        now = {folder: contents(folder) for folder in (model, out)}
        if command == "pictures":  # one of the two plots may have been written
            assert {name: whole for name, whole in now[out].items() if not whole.startswith(b"\x89PNG")}.items() <= (
                before[out].items()
            )
        else:
            assert now == before
    assert failures > 0 and message is None
    checkpoint.load(model)
    assert {folder: contents(folder) for folder in (model, out)} != before


def test_a_file_size_limit_is_reported_like_a_full_disk(
    data: Path,
    tmp_path: Path,
    vae: Callable[..., str | None],
    limit: Callable[[int | None], None],
) -> None:
    assert vae(*train(data, tmp_path / "whole")) is None
    run = tmp_path / "run"
    weights, state = (
        (tmp_path / "whole" / name).stat().st_size for name in ("checkpoint/model.safetensors", "state.safetensors")
    )
    for most, place in ((weights - 1, "checkpoint"), (state // 2, "state.safetensors")):
        limit(most)
        message = vae(*train(data, run))
        limit(None)
        assert message is not None and "File too large" in message and str(run / place) in message
        assert not leftovers(run)
    assert vae(*train(data, run)) is None
    assert outcome(run) == outcome(tmp_path / "whole")

    before = contents(run)
    limit(256)
    commands = {
        "calibrate": ("calibrate", run, data, "--samples", "2"),
        "evaluate": ("evaluate", run, data, "--samples", "2", "--detection", "0", "--save"),
        "score": ("score", run, data, "--out", tmp_path / "scores.csv"),
    }
    for command in commands.values():
        message = vae(*command)
        assert message is not None and "File too large" in message and "make room" in message
    limit(None)
    assert contents(run) == before
    assert not (tmp_path / "scores.csv").exists()
    assert not leftovers(tmp_path)


def test_the_process_reports_a_file_size_limit(data: Path, tmp_path: Path) -> None:
    first = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    ended = process(first, *train(data, tmp_path / "run"), stdout=subprocess.PIPE)
    assert ended.returncode == 1
    assert f"{tmp_path / 'run' / 'checkpoint'}: cannot be saved (File too large)" in line(ended.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full does not exist")
def test_a_full_disk_under_standard_output_is_one_line(data: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = process("", *train(data, tmp_path / "run"), stdout=full)
    assert ended.returncode == 1
    assert "standard output: No space left on device" in line(ended.stderr)


def process(before: str, *arguments: object, stdout: Any) -> "subprocess.CompletedProcess[str]":
    code = f"{before}import sys; sys.modules['matplotlib'] = None; from app.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
