"""`vae` commands in the process of the tests."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import main as cli

Invoke = Callable[..., str]
#: A training that takes a second.
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


def invoke(*arguments: str) -> str:
    """Run `vae` with these arguments in the working folder, and return its output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vae", *arguments])  # which a training keeps in its card
        result = CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def table(path: Path | str) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with Path(path).open() as file:
        return list(csv.DictReader(file))
