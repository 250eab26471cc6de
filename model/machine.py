"""The machine and software of a training, for the model's card."""

import math
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Number of processors that this process may use: its CPU affinity, limited by the CPU quota of its container."""
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no container, no cgroup v2, or a quota of "max"
        return pinned
    return max(1, min(pinned, share))


def describe(device: str = "cpu") -> str:
    """Name of the processor and number of cores, or name of the accelerator."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {cores()} cores"


def versions() -> dict[str, str]:
    """Versions of the software that decides the value of a weight."""
    software = {"torch": torch.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **software, "os": sys.platform}
