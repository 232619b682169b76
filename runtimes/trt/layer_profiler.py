"""The profiler that TensorRT reports the time of each layer to, and the inputs that are timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.protocol import Array


def noise(dtype: str, shape: tuple[int, ...]) -> Array:
    """Return an input to time an engine with: the same random numbers each time, of standard normal size."""
    values = np.random.default_rng(0).normal(size=shape)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (np.abs(values) * 60).astype(dtype)


def make_profiler(trt: Any) -> Any:
    """Return a profiler of this TensorRT module that keeps what it reports: `heard`, (layer, milliseconds)."""

    class LayerProfiler(trt.IProfiler):  # type: ignore[misc]
        """Keeps what TensorRT reports."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.heard: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.heard.append((str(layer_name), float(ms)))

    return LayerProfiler()
