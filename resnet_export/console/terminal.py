"""Output for a person: steps and progress bars on standard error, the table and the next command on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
from resnet_export.console.reporter import Event, Item, Reporter


class Terminal(Reporter):
    """Prints steps as they end, and progress bars while they run; only warnings where it is to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(self._print)
        self._quiet = quiet
        self._errors = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def _print(self, event: Event) -> None:
        if event.kind == "warning":
            self._errors.print(f"[yellow]warning:[/yellow] {escape(event.message)}")
        elif event.kind == "done" and not self._quiet:
            self._errors.print(f"[green]✓[/green] {escape(event.message)}")

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
        """Yield `items` behind a progress bar; see `Reporter.track`."""
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
            *columns, console=self._errors, transient=True, disable=self._quiet or not self._errors.is_terminal
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
