"""What a training ran on."""

import os
import platform
from pathlib import Path

import pytest
import torch

from model import machine


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cores() == os.cpu_count()


def test_a_processor_is_named_with_its_cores() -> None:
    name, _, cores = machine.describe().rpartition(", ")
    assert name
    assert cores == f"{machine.cores()} cores"


def test_an_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device}")
    assert machine.describe("cuda:1") == "Card cuda:1"


def test_a_system_that_does_not_name_its_processor_is_named_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / "there-is-no-cpuinfo")
    assert machine.describe().startswith(platform.machine())


def test_versions_name_all_that_decides_a_weight() -> None:
    said = machine.versions()
    assert {"python", "torch", "numpy"} <= said.keys()
    assert said["torch"] == torch.__version__
    assert all(said.values())
