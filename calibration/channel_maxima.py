"""The largest |x| of each channel of the quantized tensors, on a few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from exporter.graph import with_outputs
from runtimes.protocol import Runtime


def collect_channel_maxima(
    model: ModelProto,
    tensors: Sequence[str],
    images: Sequence[NDArray[np.float32]],
    *,
    open_runtime: Callable[[ModelProto], Runtime],
) -> Mapping[str, NDArray[np.float64]]:
    """Run `images` through the model and return, per tensor, its largest |x| per channel, float64 [C].

    Args:
        model: Float32 model with one input.
        tensors: Names of tensors [n, C, ...].
        images: Batches, float32 [n, C, H, W].
        open_runtime: Opens a model.
    """
    largest: dict[str, NDArray[np.float64]] = {}
    with open_runtime(with_outputs(model, tensors)) as runtime:
        input_name = next(iter(runtime.input_specs))
        for batch in images:
            values = runtime.run({input_name: batch})
            for name in tensors:
                channels = values[name].reshape(len(batch), values[name].shape[1], -1)
                peaks = np.maximum(channels.max(axis=(0, 2)), -channels.min(axis=(0, 2))).astype(np.float64)
                largest[name] = np.maximum(largest[name], peaks) if name in largest else peaks
    return largest
