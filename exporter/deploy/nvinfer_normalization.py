"""Decide which part of a model's normalization DeepStream's nvinfer can do, and how far it is off where it cannot.

nvinfer computes y = net-scale-factor * (x - offsets[c]) of 8-bit levels x, in float32, one factor for all channels.
Training's is y = ((x / 255) - mean[c]) / std[c]: with one std that is factor 1 / (255 std) and offsets 255 mean[c];
with three it is not to be had. There are 256 levels, so the difference is counted out, not estimated.

Source: https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html (pre-processing).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ExportError
from runtimes.counted import counted
from runtimes.preprocessing.transform import Preprocessing, normalize

MAX_DEVIATION = 2e-6
"""Largest |difference| of a normalized level that counts as none: the rounding of four float32 operations on values
below 4 (half a step of 2.4e-7 each), measured 2.4e-7 for ImageNet's mean with one std."""


@dataclass(frozen=True, slots=True)
class NvinferNormalization:
    """One factor and an offset for each channel.

    Attributes:
        scale_factor: `net-scale-factor`.
        offsets: `offsets`, R, G, B, in levels 0-255.
        max_deviation: Largest |difference| from training's normalization over all levels and channels, in units of the
            normalized values.
    """

    scale_factor: float
    offsets: tuple[float, float, float]
    max_deviation: float

    @property
    def is_exact(self) -> bool:
        """Whether it equals training's up to rounding."""
        return self.max_deviation <= MAX_DEVIATION


NOTHING = NvinferNormalization(1.0, (0.0, 0.0, 0.0), 0.0)
"""nvinfer hands the levels 0-255 through, and the model normalizes."""


def nvinfer_normalization(preprocessing: Preprocessing) -> NvinferNormalization:
    """Return nvinfer's best: the factor with the smallest largest difference.

    The difference of channel c is at most reach[c] * |1 / std[c] - factor|, where reach is the largest
    |x / 255 - mean[c]|. The best factor of two channels makes theirs equal, and the worst pair decides.
    """
    if preprocessing.channels != 3:
        raise ExportError(
            f"DeepStream's nvinfer hands color frames over, and this model takes "
            f"{counted(preprocessing.channels, 'channel')}; use resnet-export triton, or the Python interface"
        )
    inverse = [1 / value for value in preprocessing.std]
    reach = [max(abs(value), abs(1 - value)) for value in preprocessing.mean]
    worst, factor = 0.0, inverse[0]
    for first, second in combinations(range(3), 2):
        a, b = reach[first], reach[second]
        if (difference := abs(inverse[first] - inverse[second]) * a * b / (a + b)) > worst:
            worst, factor = difference, (a * inverse[first] + b * inverse[second]) / (a + b)
    scale = float(np.float32(factor / 255))
    red, green, blue = (float(np.float32(255 * value)) for value in preprocessing.mean)
    offsets = (red, green, blue)
    levels = np.arange(256, dtype=np.uint8)[:, np.newaxis].repeat(3, axis=1)[:, np.newaxis, np.newaxis]
    exact = normalize(preprocessing, levels)
    got = apply_nvinfer(NvinferNormalization(scale, offsets, 0.0), levels)
    return NvinferNormalization(scale, offsets, float(np.abs(exact.astype(np.float64) - got).max()))


def apply_nvinfer(normalization: NvinferNormalization, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what nvinfer feeds its engine, float32 [n, 3, H, W], of pixels uint8 [n, H, W, 3], R, G, B.

    Source: NVIDIA DeepStream, src/utils/nvdsinfer/nvdsinfer_conversion.cu, NvDsInferConvert_C3ToP3Float.
    """
    offsets = np.array(normalization.offsets, np.float32)[:, np.newaxis, np.newaxis]
    values = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
    return np.asarray(np.float32(normalization.scale_factor) * (values - offsets), np.float32)
