"""ONNX Runtime's CPU sessions that compute Q/DQ as written, one thread each, for batches that run side by side."""

from __future__ import annotations

from functools import partial

from runtimes.ort.adapter import OrtRuntime
from runtimes.side_by_side import SideBySide, streams_of_this_machine

open_exact = partial(OrtRuntime, exact_qdq=True)
"""Opens a model in as many threads as there are cores."""


def exact_side_by_side() -> SideBySide:
    """Return how to open them on this machine."""
    streams = streams_of_this_machine()
    return SideBySide(partial(OrtRuntime, exact_qdq=True, num_threads=streams.threads), streams)
