"""Console, progress bar and write errors of the commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import DataError

#: Called with the number of finished steps.
ProgressCallback = Callable[[int], None]


def plain_console(*, stderr: bool = False) -> Console:
    """Console of all commands: names are printed unchanged, and lines are not wrapped in a pipe."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[ProgressCallback]:
    """Show a progress bar until the block ends; only on a terminal."""
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as a DataError that names the output and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room, or choose another folder") from error
