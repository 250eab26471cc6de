"""Safe file I/O.

Writes are atomic: temporary name, fsync, rename. Every failure is an `OSError` whose `strerror` says what is wrong;
callers add the remedy.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def read_checked(path: Path, least: int, most: int) -> bytes:
    """Read a whole file of `least` to `most` bytes. Raise `OSError` at another size or a link out of its folder."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(path.parent)):
        raise OSError(errno.EXDEV, "it is a link that leads out of its folder")
    with open(real, "rb", opener=_open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        if not least <= status.st_size <= most:
            raise OSError(errno.EFBIG, f"its {status.st_size:,} bytes are not what such a file holds")
        return file.read(status.st_size)


def _open_nonblocking(path: str, flags: int) -> int:
    """Open without following links, and without waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces the file in one step, else it is removed.

    Links are followed. Readers see the old file or the new one, also after a crash or on a full disk.
    `OSError` says that the file cannot be written, or that a folder, pipe or device is in its place.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise OSError(errno.EINVAL, "it is not a file")
    part = temporary_path(real)
    try:
        yield part
        _sync(part)
        os.replace(part, real)
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file of these bytes in one step, as `atomic_write` does."""
    with atomic_write(path) as part:
        write_synced(part, data)


def replace_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """Replace a folder by one with these files. A crash can leave the old folder at `previous_path(folder)` instead.

    If the folder cannot be written, raise `OSError` and leave the old one untouched.
    """
    fresh, previous = temporary_path(folder), previous_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name, data in contents.items():
            write_synced(fresh / name, data)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        fresh.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            if not folder.exists():
                previous.rename(folder)
        raise


def temporary_path(path: Path) -> Path:
    """The name beside `path` under which its replacement is written."""
    return path.with_name(f".{path.name}.fresh")


def previous_path(folder: Path) -> Path:
    """The name beside `folder` that holds the old version between the two renames of a replacement."""
    return folder.parent / f".{folder.name}.previous"


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk, so that a later rename never precedes its contents."""
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
