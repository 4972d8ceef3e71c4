"""What the command line says, and where: results to standard output, all else to the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bars
from rich.progress import TimeElapsedColumn as Elapsed

from insitu.errors import InsituError
from insitu.progress import Progress

__all__ = ["complain", "output", "progress"]

_LINE_EVERY = 60
"""Seconds between lines about the same thing where there is no bar."""


def output() -> Console:
    """Where results go: as they are, since names and paths may look like markup."""
    return Console(highlight=False, markup=False, emoji=False)


def _errors() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def complain(error: InsituError) -> None:
    """Say what went wrong and what to do."""
    console = _errors()
    for word, style, text in (
        ("error:", "bold red", error.cause),
        ("next:", "bold", error.next_step),
    ):
        console.print(word, style=style, end=" ")
        console.print(text)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar, for functions that report what is done, what there is to do and what is going on.

    Where standard error is no terminal: a line for each new thing, and one for each minute of it.
    """
    console = _errors()
    current: str | None = None
    if not console.is_terminal:
        said = 0.0

        def line(done: int, total: int | None, what: str) -> None:
            nonlocal current, said
            if what != current:
                text = f"{what} ..."
            elif total is not None and monotonic() - said >= _LINE_EVERY:
                text = f"{what}: {done:,} of {total:,}"
            else:
                return
            current, said = what, monotonic()
            console.print(text)

        yield line
        return

    name = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), name, BarColumn(bar_width=16))
    with Bars(*columns, MofNCompleteColumn(), Elapsed(), console=console) as bars:
        task = None

        def bar(done: int, total: int | None, what: str) -> None:
            nonlocal current, task
            if what != current or task is None:
                if task is not None:
                    end = bars.tasks[task].total or 1
                    bars.update(task, total=end, completed=end)
                current = what
                task = bars.add_task(what, total=total)
            bars.update(task, completed=done, total=total)

        yield bar
        if task is not None:
            end = bars.tasks[task].total or 1
            bars.update(task, total=end, completed=end)
