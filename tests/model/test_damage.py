"""Damaged checkpoints are refused with an error of one line."""

import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint
from model.checkpoint import CALIBRATION, CARD, CONFIG, PRETRAINED, SUMS, WEIGHTS, Checkpoint, load
from model.errors import CheckpointError
from tests.support.checkpoints import refusal

MODELS = ("grey-mlp-discretized", "rgb-conv-autoregressive", "table-mlp-gaussian")
FILES = (CONFIG, WEIGHTS, CARD, CALIBRATION, SUMS)
IMAGE = MODELS[0]


@pytest.fixture
def copied(calibrated: Callable[[str], Checkpoint], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a calibrated model."""
    return lambda name: Path(shutil.copytree(calibrated(name).folder, tmp_path / name))


def refused(folder: Path) -> str:
    """Error message of loading, in one line."""
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = refusal(error)
    assert "\n" not in message and str(folder) in message and ";" in message
    return message


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Bytes with one byte changed, with one bit flipped, or truncated."""
    place = int(draw.integers(len(data)))
    how = draw.integers(3)
    if how == 0:
        return data[:place]
    change = int(draw.integers(1, 256)) if how == 1 else 1 << int(draw.integers(8))
    return data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]


def spoil(folder: Path, times: int, seed: int) -> None:
    """Damage each file `times` times, and restore it."""
    draw = np.random.default_rng(seed)
    for name in FILES:
        whole = (folder / name).read_bytes()
        for _ in range(times):
            spoilt = damaged(whole, draw)
            assert spoilt != whole
            (folder / name).write_bytes(spoilt)
            message = refused(folder)
            assert name in message or SUMS in message
        (folder / name).write_bytes(whole)
    load(folder)


@pytest.mark.parametrize("seed", range(len(MODELS)))
def test_any_flipped_byte_or_truncation_of_any_file_is_refused(seed: int, copied: Callable[[str], Path]) -> None:
    spoil(copied(MODELS[seed]), 100, seed)


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-mlp"])
def test_any_flipped_byte_of_a_shipped_model_is_refused(name: str, tmp_path: Path) -> None:
    spoil(Path(shutil.copytree(PRETRAINED / name, tmp_path / name)), 6, 0)


@pytest.mark.parametrize("name", MODELS)
def test_checksums_with_the_line_ends_of_windows_are_read(copied: Callable[[str], Path], name: str) -> None:
    folder = copied(name)
    before = load(folder)
    sums = (folder / SUMS).read_bytes()
    (folder / SUMS).write_bytes(sums.replace(b"\n", b"\r\n"))
    loaded = load(folder)
    assert loaded.digest == before.digest
    assert loaded.calibration is not None
    (folder / CARD).write_bytes((folder / CARD).read_bytes() + b" ")
    assert CARD in refused(folder)


def test_any_flipped_byte_of_the_checksum_file_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    whole = (folder / SUMS).read_bytes()
    for place, byte in enumerate(whole):
        for other in {byte ^ 0x20, byte ^ 1, byte ^ 0x80}:
            (folder / SUMS).write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            assert SUMS in refused(folder)


def test_checksum_files_in_another_form_are_refused(copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    whole = (folder / SUMS).read_bytes()
    lines = whole.splitlines(keepends=True)
    others = {
        "upper case": b"".join(line[:64].upper() + line[64:] for line in lines),
        "no newline at the end": whole[:-1],
        "one more": whole + b"\n",
        "a blank at the end": whole[:-1] + b" \n",
        "a tab at the end": whole + b"\t",
        "binary": whole.replace(b"  ", b" *"),
        "a comment": b"# checked\n" + whole,
        "another order": b"".join(reversed(lines)),
        "a line twice": whole + lines[0],
        "a line less": b"".join(lines[1:]),
        "paths": whole.replace(b"  ", b"  ./"),
        "zero": whole + b"\0",
        "nothing": b"",
        "a mark of UTF-8": b"\xef\xbb\xbf" + whole,
    }
    for how, data in others.items():
        assert data != whole, how
        (folder / SUMS).write_bytes(data)
        assert SUMS in refused(folder), how


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", ["readme.txt", "model.py", "model.safetensors.old", "Config.json", ".hidden"])
def test_other_files_in_the_folder_are_ignored(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    before = load(folder).digest
    os.mkfifo(folder / name)  # whoever reads it waits for ever
    assert load(folder).digest == before


def test_a_calibration_without_a_checksum_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    contents = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    (folder / SUMS).write_bytes(checkpoint.checksums(contents))
    assert CALIBRATION in refused(folder)
    (folder / CALIBRATION).unlink()
    assert load(folder).calibration is None


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused(name: str, copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(IMAGE)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert "leads out of its folder" in refused(folder)


def test_links_within_the_folder_are_followed(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(IMAGE)
    before = load(folder).digest
    (folder / "..data").mkdir()
    for name in FILES:
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data", name))
    (tmp_path / "current").symlink_to(folder)
    assert load(tmp_path / "current").digest == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["folder", "pipe", "device", "circle"])
def test_folders_pipes_and_devices_are_refused_without_blocking(
    what: str, name: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(IMAGE)
    (folder / name).unlink()
    if what == "folder":
        (folder / name).mkdir()
    elif what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if what == "device" else name)
    # A reader that waited for a pipe's writer would never come back: that this ends is what is tested.
    assert name in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_too_large_is_refused_without_reading_it(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied(IMAGE)
    whole = (folder / name).read_bytes()
    with (folder / name).open("r+b") as file:
        file.truncate(10 << 30)
    tracemalloc.start()
    try:
        message = refused(folder)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert name in message and "10,737,418,240 bytes" in message
    assert most < 64 << 20
    (folder / name).write_bytes(whole)
    load(folder)


def test_large_weights_are_read_where_the_configuration_asks_for_as_many(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(IMAGE)
    before = load(folder).digest
    # As if these weights were large: what they hold beside numbers, a header, is no more than this.
    monkeypatch.setattr(checkpoint, "MAX_UNCHECKED_BYTES", 1 << 14)
    assert (folder / WEIGHTS).stat().st_size > 1 << 14
    assert load(folder).digest == before
    with (folder / WEIGHTS).open("ab") as file:
        file.truncate((folder / WEIGHTS).stat().st_size + (1 << 14))
    assert f"{WEIGHTS}: cannot be read" in refused(folder)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b"])
def test_an_impossible_folder_name_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        load(Path(name))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o700, 0o701, 0o704])
def test_a_folder_that_this_user_may_not_read_is_refused(mode: int, calibrated: Callable[[str], Checkpoint]) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(shutil.copytree(calibrated(IMAGE).folder, Path(place, "model")))
        load(folder)
        folder.chmod(mode)
        (folder / SUMS).chmod(0o644)
        os.seteuid(65534)
        try:
            message = refused(folder)
        finally:
            os.seteuid(0)
        assert "let this user read it" in message
