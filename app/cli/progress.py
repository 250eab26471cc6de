"""Console, progress bar and write errors of the commands."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import DataError

#: Called with the number of finished steps.
ProgressCallback = Callable[[int], None]


def plain_console(*, stderr: bool = False) -> Console:
    """Console of all commands: names are printed unchanged, and lines are not wrapped in a pipe."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


#: Seconds between two lines of progress where there is no terminal to show a bar on.
LINE_INTERVAL_S = 60.0


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[ProgressCallback]:
    """Show a progress bar until the block ends; without a terminal, print a line a minute."""
    if not console.is_terminal:
        yield _lines(console, what, total)
        return
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(console: Console, what: str, total: int) -> ProgressCallback:
    """A callback that prints how much is done and how long the rest takes, at its pace so far."""
    started = printed = time.monotonic()

    def show(done: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed < LINE_INTERVAL_S or not done:
            return
        printed = now
        left = timedelta(seconds=round((now - started) * (total - done) / done))
        console.print(f"{what}: {done / total:.0%}, {left} left")

    return show


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as a DataError that names the output and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room, or choose another folder") from error
