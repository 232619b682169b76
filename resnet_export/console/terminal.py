"""What a person sees: steps with progress bars on standard error, the table and the next command on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from resnet_export.console.interrupt import raise_if_requested

Item = TypeVar("Item")


class Terminal:
    """Prints steps as they end and remembers them for the report.

    Args:
        quiet: Print warnings only.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def done(self, message: str) -> None:
        """Tell that a step ended, and what came out."""
        raise_if_requested()
        self.messages.append(message)
        if not self._quiet:
            self._errors.print(f"[green]✓[/green] {escape(message)}")

    def warn(self, message: str) -> None:
        """Tell what the user should look at; printed even when quiet."""
        self.warnings.append(message)
        self._errors.print(f"[yellow]warning:[/yellow] {escape(message)}")

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show a spinner while something of unknown length runs."""
        with self._progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
            progress.add_task(what, total=None)
            raise_if_requested()
            yield

    @contextmanager
    def steps(self, what: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show a bar that the caller moves by `(phase, steps done, steps in all)`, from any thread."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with self._progress(*columns) as progress:
            task = progress.add_task(what, total=None)

            def move(phase: str, done: int, total: int) -> None:
                progress.update(task, description=f"{what}: {phase}", completed=done, total=total or None)

            yield move

    def track(self, what: str, items: Iterable[Item], total: int, sizes: Any = None) -> Iterator[Item]:
        """Yield `items` behind a progress bar.

        Args:
            what: The step's name.
            items: Batches or single things.
            total: Sum of all sizes.
            sizes: Item to its share of `total`; 1 when None.
        """
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with self._progress(*columns) as progress:
            task = progress.add_task(what, total=total)
            for item in items:
                raise_if_requested()
                yield item
                progress.advance(task, 1 if sizes is None else sizes(item))

    def _progress(self, *columns: Any) -> Progress:
        return Progress(
            *columns,
            console=self._errors,
            transient=True,
            disable=self._quiet or not self._errors.is_terminal,
        )


LOG_WIDTH = 160


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], footer: Sequence[str]) -> None:
    """Print the result: one table, then lines of plain text."""
    # A log has no width; 80, which rich then takes, would cut cells off.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in footer:
        console.print(line, soft_wrap=True, markup=False)
