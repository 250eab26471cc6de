"""Fixtures that run `vae` like a user, and data small enough to train on in a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.inference import devices
from tests.support.commands import Invoke, invoke


@pytest.fixture(scope="package", autouse=True)
def one_core() -> Iterator[None]:
    """Use one core: for such small models, threads cost more time than they save."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "cores", lambda: 1)
        yield


@pytest.fixture
def vae(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Function that runs `vae` with its arguments in an empty folder and returns the output."""
    monkeypatch.chdir(tmp_path)
    return invoke
