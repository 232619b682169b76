"""Two threads that share a layer's arithmetic, each with a BLAS of half of the cores.

A BLAS that splits every product over the cores lets most of them wait, spinning, for the next one. So the work is cut
where it falls apart by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Protocol, TypeVar

from threadpoolctl import ThreadpoolController

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
    """Give a `Run` that shares pieces with one more thread; while it is open, BLAS takes half of its threads a call."""
    threads = max((library.num_threads for library in _blas().lib_controllers), default=1)
    if threads == 1:
        yield alone
        return
    with _blas().limit(limits=threads // 2), ThreadPoolExecutor(1, "refinement") as other:

        def run(pieces: Iterable[Callable[[], Result]], /) -> list[Result]:
            first, *rest = pieces
            begun = [other.submit(copy_context().run, piece) for piece in rest]  # with the caller's np.errstate
            return [first(), *(piece.result() for piece in begun)]

        yield run


@cache
def _blas() -> ThreadpoolController:
    """Return what sets the threads of NumPy's BLAS; looking for it among all libraries takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")
