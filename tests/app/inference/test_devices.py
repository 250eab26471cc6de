"""Device, threads and memory of the process."""

import ctypes
from typing import Any

import pytest
import torch

from app.inference import devices
from model.errors import ConfigError


def test_an_unknown_device_is_refused() -> None:
    assert devices.choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'tpu' cannot be used here"):
        devices.choose_device("tpu")


def test_threads_are_the_setting_or_an_equal_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "cores", lambda: 8)
    try:
        assert [devices.set_threads(threads, workers) for threads, workers in ((3, 1), (None, 2), (None, 9))] == [
            3,
            4,
            1,
        ]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_trim_memory_does_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: no such file")

    devices.trim_memory()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    devices.trim_memory()
