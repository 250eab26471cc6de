"""Files as models need them: read without being led astray or kept waiting, written whole or not at all.

All that goes wrong is an `OSError`, whose `strerror` says what; who calls knows the remedy.
"""

import errno
import os
import stat
from pathlib import Path


def read(path: Path, least: int, most: int) -> bytes:
    """The bytes of a file.

    Args:
        least, most: how many there must be; otherwise it is not read, whatever its size.

    Raises:
        OSError: it cannot be read, its links lead out of its folder, it is no file, or its size is another.
    """
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(path.parent)):
        raise OSError(errno.EXDEV, "it is a link that leads out of its folder")
    with open(real, "rb", opener=_at_once) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        if not least <= about.st_size <= most:
            raise OSError(errno.EFBIG, f"its {about.st_size:,} bytes are not what such a file holds")
        return file.read(about.st_size)


def _at_once(path: str, flags: int) -> int:
    """Open, but follow no more links, and do not wait for whoever writes to a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def place(path: Path) -> Path:
    """Where a file of this name is to be written: where its links lead.

    Raises:
        OSError: what is there is no file, but a folder or a device, and must not be replaced by one.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise OSError(errno.EINVAL, "it is not a file")
    return real


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever looks sees the old one or the new one, and on a full disk it is the old one.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    path = place(path)
    fresh = path.with_name(f".{path.name}.fresh")
    try:
        write_synced(fresh, data)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk, so that a later rename never precedes its contents."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
