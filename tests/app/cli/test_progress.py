"""Progress of the commands where no terminal shows a bar."""

import io

import pytest
from rich.console import Console

from app.cli import progress as module
from app.cli.progress import progress


def test_a_line_a_minute_says_how_much_is_done_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = iter([0.0, 30.0, 59.0, 61.0, 90.0, 122.0, 240.0]), io.StringIO()
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress(Console(file=file), "Calibrating", 400) as advance:
        for done in (10, 90, 100, 150, 200, 400):
            advance(done)
    assert file.getvalue().splitlines() == [
        "Calibrating: 25%, 0:03:03 left",
        "Calibrating: 50%, 0:02:02 left",
        "Calibrating: 100%, 0:00:00 left",
    ]


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(module, "LINE_INTERVAL_S", 0.0)
    with progress(Console(file=file, force_terminal=True), "Calibrating", 400) as advance:
        advance(100)
    assert "left" not in file.getvalue()
