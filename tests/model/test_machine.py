"""Description of the machine: cores, processor, accelerator, package versions."""

import os
import platform
from pathlib import Path

import pytest
import torch

from model import machine


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with eight processors, and the file in which a container limits their share."""
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
        ("1 2 3", 8),
    ],
)
def test_a_container_limits_the_cores(text: str, cores: int, quota: Path) -> None:
    quota.write_text(text)
    assert machine.cores() == cores


def test_without_a_container_the_cores_are_those_pinned_to(quota: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
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


def test_versions_name_every_package_that_affects_weights() -> None:
    versions = machine.versions()
    assert {"python", "torch", "numpy"} <= versions.keys()
    assert versions["torch"] == torch.__version__
    assert all(versions.values())
