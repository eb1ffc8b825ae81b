"""What people see: tables within 80 columns, colour and progress on a terminal only."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80


def open_console(stream: TextIO | None = None) -> "Console":
    """A rich console on `stream` (standard output where None), never wider than 80."""
    from rich.console import Console

    stream = stream or sys.stdout
    terminal = stream.isatty()
    console = Console(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.width = min(WIDTH, console.width) if terminal else WIDTH
    return console


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Print rows under their column heads; long cells wrap, nothing is cut off.

    right: the columns that are aligned to the right (numbers).
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    stream = stream or sys.stdout
    console = open_console(stream)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    stream.write("\n".join(lines).strip("\n") + "\n")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that `what` is being done and for how long."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = open_console(sys.stderr)
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def say(text: str, stream: TextIO | None = None) -> None:
    """One line for people, on standard output unless told otherwise."""
    print(text, file=stream or sys.stdout)
