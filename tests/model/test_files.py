"""Checked reads and atomic writes of files."""

import os
import resource
from pathlib import Path

import pytest

from model import files

MUCH = 1 << 20


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestReading:
    @pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 40])
    def test_gives_all_bytes(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(data)
        assert files.read_checked(tmp_path / "file", 0, MUCH) == data
        assert files.read_checked(tmp_path / "file", len(data), len(data)) == data

    @pytest.mark.parametrize(("least", "most"), [(0, 9), (11, MUCH), (0, 0)])
    def test_refuses_a_file_of_an_impossible_size(self, least: int, most: int, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        with pytest.raises(OSError, match="10 bytes"):
            files.read_checked(tmp_path / "file", least, most)

    def test_does_not_wait_for_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "file")
        with pytest.raises(OSError, match="not a file"):
            files.read_checked(tmp_path / "file", 0, MUCH)

    def test_refuses_folders_and_missing_files(self, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        with pytest.raises(OSError, match="directory"):
            files.read_checked(tmp_path / "file", 0, MUCH)
        with pytest.raises(FileNotFoundError):
            files.read_checked(tmp_path / "none", 0, MUCH)

    def test_follows_links_within_the_folder_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        (folder / "..data").mkdir(parents=True)
        (folder / "..data" / "file").write_bytes(b"within")
        (folder / "file").symlink_to("..data/file")
        (tmp_path / "alias").symlink_to(folder)
        assert files.read_checked(tmp_path / "alias" / "file", 0, MUCH) == b"within"
        (tmp_path / "elsewhere").write_bytes(b"outside")
        for target in ("../elsewhere", tmp_path / "elsewhere", "/dev/zero", "..data/../../elsewhere"):
            (folder / "file").unlink()
            (folder / "file").symlink_to(target)
            with pytest.raises(OSError, match="leads out"):
                files.read_checked(folder / "file", 0, MUCH)

    def test_ends_where_links_lead_in_circles(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(OSError, match="symbolic links"):
            files.read_checked(tmp_path / "a", 0, MUCH)


class TestWriting:
    def test_leaves_the_file_and_nothing_else(self, tmp_path: Path) -> None:
        for data in (b"first", b"second and longer"):
            files.write_atomic(tmp_path / "file", data)
            assert (tmp_path / "file").read_bytes() == data
        assert names(tmp_path) == ["file"]

    def test_a_full_disk_keeps_the_old_file(self, tmp_path: Path) -> None:
        files.write_atomic(tmp_path / "file", b"old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                files.write_atomic(tmp_path / "file", bytes(5000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert names(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"

    def test_follows_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "link").symlink_to("there/file")
        files.write_atomic(tmp_path / "link", b"data")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == b"data"
        assert names(tmp_path / "there") == ["file"]

    def test_does_not_put_a_file_in_the_place_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("/dev/null")
        for name in ("folder", "pipe", "link"):
            with pytest.raises(OSError, match="not a file"):
                files.write_atomic(tmp_path / name, b"data")
        assert names(tmp_path) == ["folder", "link", "pipe"]
        assert not Path("/dev/null").is_file()
