"""`vae` as a user runs it, and data small enough to train on in a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.inference import devices
from tests.support.commands import Invoke, invoke


@pytest.fixture(scope="package", autouse=True)
def one_core() -> Iterator[None]:
    """These models are too small to share: threads that wait for each other cost more than all the arithmetic."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "cores", lambda: 1)
        yield


@pytest.fixture
def vae(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Run `vae` with these arguments in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)
    return invoke
