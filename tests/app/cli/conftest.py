"""Fixtures that run `vae` like a user, and data small enough to train on in a second."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import main as cli
from app.inference import devices

Invoke = Callable[..., str]
#: Options for a training that takes about a second.
SMALL = (
    "--threads",
    "1",
    "--epochs",
    "3",
    "--hidden",
    "16,8",
    "--latent",
    "3",
    "--batch-size",
    "16",
    "--device",
    "cpu",
)


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


def invoke(*arguments: str) -> str:
    """Run `vae` with these arguments in the current folder and return the output."""
    result = CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def squares(count: int = 80) -> np.ndarray[Any, Any]:
    """Bright squares on dark ground, 8x8."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 20, (count, 8, 8), np.uint8)
    for image, (row, column) in zip(images, generator.integers(0, 5, (count, 2)), strict=True):
        image[row : row + 3, column : column + 3] += 200
    return images


def table(path: Path | str) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with Path(path).open() as file:
        return list(csv.DictReader(file))
