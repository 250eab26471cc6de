"""Device, threads and memory of the process."""

import ctypes
from typing import Any

import pytest
import torch

from app.inference import devices
from model.errors import ConfigError

#: Devices that torch knows by name; hpu and privateuseone are modules that are not there, meta computes nothing.
NAMED = (
    "tpu",
    "",
    "cpu:-1",
    "cuda:99",
    "hpu",
    "privateuseone",
    "meta",
    "meta:0",
    "mkldnn",
    "xla",
    "vulkan",
    "lazy",
    "ipu",
)


def test_cpu_is_taken() -> None:
    assert devices.choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", NAMED)
def test_a_device_that_cannot_compute_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device: '{name}' cannot be used here \(.+\); use auto or cpu") as refused:
        devices.choose_device(name)
    assert "\n" not in str(refused.value)


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
