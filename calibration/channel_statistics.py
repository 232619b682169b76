"""What each channel of the quantized tensors holds on a few images: its largest |x| and a sample of its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.sampled_positions import sampled_positions
from exporter.graph import with_outputs
from runtimes.protocol import Runtime

Tensor = NDArray[np.float32]

SAMPLES_PER_CHANNEL = 512
"""Values kept per channel over all images. A ResNet-50 has 27 000 channels in quantized tensors: 55 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStatistics:
    """One tensor.

    Attributes:
        max_abs: Largest |x| per channel, exact over all images, float64 [C].
        values: Evenly strided values per channel, image after image, float32 [C, num_samples].
    """

    max_abs: NDArray[np.float64]
    values: Tensor

    def scaled(self, factors: NDArray[np.float64]) -> ChannelStatistics:
        """Return the statistics of the tensor with channel c multiplied by factors[c] > 0."""
        return ChannelStatistics(self.max_abs * factors, (self.values * factors[:, np.newaxis]).astype(np.float32))


def collect_channel_statistics(
    model: ModelProto,
    tensors: Sequence[str],
    images: Sequence[Tensor],
    *,
    open_runtime: Callable[[ModelProto], Runtime],
) -> Mapping[str, ChannelStatistics]:
    """Run `images` through the model and return the statistics of every tensor.

    Args:
        model: Float32 model with one input.
        tensors: Names of tensors [n, C, ...]; the input may be one.
        images: Batches, float32 [n, C, H, W], at least one.
        open_runtime: Opens a model.
    """
    num_images = sum(len(batch) for batch in images)
    per_image = max(1, SAMPLES_PER_CHANNEL // num_images)
    largest: dict[str, NDArray[np.float64]] = {}
    kept: dict[str, list[Tensor]] = {name: [] for name in tensors}
    with open_runtime(with_outputs(model, tensors)) as runtime:
        input_name = next(iter(runtime.input_specs))
        for batch in images:
            values = {input_name: batch, **runtime.run({input_name: batch})}
            for name in tensors:
                channels = values[name].reshape(len(batch), values[name].shape[1], -1)
                peak = np.maximum(channels.max(axis=(0, 2)), -channels.min(axis=(0, 2))).astype(np.float64)
                largest[name] = np.maximum(largest[name], peak) if name in largest else peak
                kept[name].append(_sampled(channels, per_image))
    return {name: ChannelStatistics(largest[name], np.concatenate(kept[name], axis=1)) for name in tensors}


def _sampled(channels: Tensor, per_image: int) -> Tensor:
    """Return about `per_image` values per image of each channel, float32 [C, n * per_image], from [n, C, positions]."""
    picked = channels[:, :, sampled_positions(channels.shape[2], per_image)]
    return np.ascontiguousarray(picked.transpose(1, 0, 2).reshape(channels.shape[1], -1))
