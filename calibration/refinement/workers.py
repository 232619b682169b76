"""Threads that share a layer's arithmetic, each with a BLAS of one thread.

A BLAS that splits every product over the cores lets most of them wait, spinning, for the next one: on two cores the
rounding of a ResNet-50 takes the same time with one thread as with two, for half of the processor time. So the work is
cut where it falls apart by itself, into `SHARES`, always the same ones: what is found does not hang on the number of
cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

from runtimes.side_by_side import Streams, in_order, pool_of, usable_cpus

SHARES = 4
"""Threads at a time, at most: each has sums of its own, 5 MB and more for a wide layer."""

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
    """Give a `Run` on the cores of this process; while it is open, BLAS takes one thread for each call."""
    streams = Streams(min(usable_cpus(), SHARES), 1)
    with threadpool_limits(1, user_api="blas"), pool_of(streams) as pool:

        def run(pieces: Iterable[Callable[[], Result]], /) -> list[Result]:
            return list(in_order(pieces, streams, pool))

        yield run
