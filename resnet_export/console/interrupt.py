"""Ctrl-C and SIGTERM that no library can swallow.

The handler raises KeyboardInterrupt wherever the program is, which may be inside a library that catches it: torch's
tracer does now and then, and the job went on. So the request is also kept, and every step asks for it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Request:
    """Whether an interrupt was asked for since the command began."""

    pending = False


@contextmanager
def listening() -> Iterator[None]:
    """Forget earlier requests and take SIGINT and SIGTERM to the end of the block; in the main thread only.

    Afterwards they are whose they were: a program that runs commands in its own process ends by SIGTERM as before.
    """
    _Request.pending = False
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def was_requested() -> bool:
    """Tell whether an interrupt was asked for, whatever became of its KeyboardInterrupt."""
    return _Request.pending


def raise_if_requested() -> None:
    """Raise the KeyboardInterrupt that somebody swallowed."""
    if _Request.pending:
        raise KeyboardInterrupt


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _Request.pending = True
    raise KeyboardInterrupt
