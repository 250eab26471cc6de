"""Devices, threads and memory: what is asked for, what is there."""

import ctypes
from typing import Any

import pytest
import torch

from app.inference import devices
from model.errors import ConfigError


def test_a_wish_that_cannot_be_met_is_refused() -> None:
    assert devices.choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'tpu' cannot be used here"):
        devices.choose_device("tpu")


def test_threads_are_those_asked_for_or_a_workers_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "cores", lambda: 8)
    try:
        assert [devices.set_threads(wish, workers) for wish, workers in ((3, 1), (None, 2), (None, 9))] == [3, 4, 1]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: no such file")

    devices.give_back_memory()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    devices.give_back_memory()
