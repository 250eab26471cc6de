"""Which device, how many threads, how much memory: what the process may really use, and what it keeps."""

import ctypes
import os
import resource
from pathlib import Path

import torch

from model.errors import ConfigError
from model.machine import cores


def choose_device(wish: str) -> str:
    """`auto` -> cuda where there is one, else cpu; any other wish must be a device that torch can use here.

    Raises:
        ConfigError: torch does not know the device, or it is not there.
    """
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wish)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: '{wish}' cannot be used here ({error!s:.120}); use auto or cpu") from error
    return wish


def resident_memory() -> int:
    """Bytes that this process takes; where the system does not tell, the most that it ever took."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back_memory() -> None:
    """Return to the system what has been freed, where the C library is glibc, which keeps it otherwise."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return


def set_threads(wish: int | None, workers: int = 1) -> int:
    """Give torch as many threads as wished for, else this worker's share of the cores; returns the number."""
    threads = wish or max(1, cores() // workers)
    torch.set_num_threads(threads)
    return threads
