"""Two threads that share a layer's arithmetic, each with a BLAS of half of the cores.

A BLAS that splits every product over the cores lets most of them wait, spinning, for the next one. So the work is cut
where it falls apart by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

from runtimes.side_by_side import usable_cpus

Result = TypeVar("Result")


class Run(Protocol):
    """Runs functions that do not need each other."""

    def __call__(self, pieces: Iterable[Callable[[], Result]], /) -> list[Result]:
        """Return what they return, in order."""


def alone(pieces: Iterable[Callable[[], Result]]) -> list[Result]:
    """Run the pieces one after the other."""
    return [piece() for piece in pieces]


@contextmanager
def workers() -> Iterator[Run]:
    """Give a `Run` that shares pieces with one more thread; while it is open, BLAS takes half of the cores a call."""
    cores = usable_cpus()
    if cores == 1:
        yield alone
        return
    with threadpool_limits(cores // 2, user_api="blas"), ThreadPoolExecutor(1, "refinement") as other:

        def run(pieces: Iterable[Callable[[], Result]], /) -> list[Result]:
            first, *rest = pieces
            begun = [other.submit(piece) for piece in rest]
            return [first(), *(piece.result() for piece in begun)]

        yield run
