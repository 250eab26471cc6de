"""What the commands print with: a console, and the progress bar of all long work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def plain_console(*, stderr: bool = False) -> Console:
    """Where the commands print: names stand as they are, and no line is broken where it is piped."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


class Advance(Protocol):
    """Tells the bar how much is done."""

    def __call__(self, done: int) -> None: ...


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Advance]:
    """A bar while work goes on; gone when it ends, and never shown where nobody watches a terminal."""
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
