"""Device, threads and memory of the process."""

import ctypes
import os
import resource
import warnings
from pathlib import Path

import torch

from model.errors import ConfigError
from model.machine import cores


def choose_device(device: str) -> str:
    """Resolve `auto` to cuda if there is one, else to cpu. Raise `ConfigError` if torch cannot compute on another."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A product that is read back: torch allocates on devices that compute nothing, such as meta.
            torch.ones(2, 2, device=device).mm(torch.ones(2, 2, device=device)).tolist()
    except Exception as error:  # torch raises ImportError, AssertionError, RuntimeError and their like
        reason = " ".join(str(error).split())
        raise ConfigError(f"device: '{device}' cannot be used here ({reason:.120}); use auto or cpu") from error
    return device


def resident_memory() -> int:
    """Resident memory of this process in bytes; its peak on systems without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def trim_memory() -> None:
    """Return freed memory to the system, if the C library is glibc.

    After the start with the shipped convolutional model this is 17 MB. `MALLOC_TRIM_THRESHOLD_` in the environment
    saves 26 MB, but then glibc maps and unmaps the intermediate results of every call: score and refinement by torch
    take 1.3 to 2.4 times as long.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return


def set_threads(threads: int | None, workers: int = 1) -> int:
    """Set and return the number of threads of torch; None: an equal share of the cores for each worker process."""
    threads = threads or max(1, cores() // workers)
    torch.set_num_threads(threads)
    return threads
