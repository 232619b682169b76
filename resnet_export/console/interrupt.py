"""Ctrl-C and SIGTERM that no library can swallow.

The handler raises KeyboardInterrupt wherever the program is, which may be inside a library that catches it: torch's
tracer does now and then, and the job went on. So the request is also kept, and every step asks for it.
"""

from __future__ import annotations

import signal
from types import FrameType


class _Request:
    """Whether an interrupt was asked for since the command began."""

    pending = False


def listen() -> None:
    """Forget earlier requests and take SIGINT and SIGTERM from now on; in the main thread only."""
    _Request.pending = False
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


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
