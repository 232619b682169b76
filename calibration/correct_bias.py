"""Bias correction: give every channel of a quantized layer the mean it has in float.

Rounding and clipping shift the mean of a layer's output, most of all where large parts of an image are flat and every
pixel there is off by the same amount. Such errors do not average out; they add up from layer to layer. The shift,
measured on images, goes into the bias, where it costs nothing.

    d[n, c] = mean over the positions of image n of (reference - quantized)
    m[c]    = mean over n of d[n, c],     v[c] = variance over n of d[n, c] / num_images
    correction[c] = m[c] max(0, 1 - v[c] / m[c]^2)

The last factor shrinks what so few images cannot tell from chance to zero; with many images it is 1.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D (empirical bias correction); Finkelstein et al.
2019, arXiv:1906.03193. The factor is the positive-part estimate of the signal's share in m^2 (James and Stein 1961).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


def image_means(difference: Tensor, channel_axis: int = 1) -> NDArray[np.float64]:
    """Return the mean per image and channel, float64 [n, C], of float32 [n, ...] with C on `channel_axis`."""
    others = tuple(axis for axis in range(1, difference.ndim) if axis != channel_axis % difference.ndim)
    means: NDArray[np.float64] = difference.mean(axis=others, dtype=np.float64)
    return means


def bias_correction(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what to add to the bias, float64 [C].

    Args:
        means: Mean of reference - quantized per image and channel, float64 [n, C]. Of one image nothing is known
            about chance: the correction is zero.
    """
    if len(means) < 2:
        return np.zeros(means.shape[1])
    mean = means.mean(axis=0)
    chance = means.var(axis=0, ddof=1) / len(means)
    power = np.square(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(power > 0, np.maximum(0.0, 1.0 - chance / power), 0.0)
    correction: NDArray[np.float64] = mean * kept
    return correction


def mean_difference(
    reference: Sequence[Tensor], quantized: Sequence[Tensor], channel_axis: int = 1
) -> NDArray[np.float64]:
    """Return `image_means(reference - quantized)` over all batches, float64 [num_images, C]."""
    return np.concatenate(
        [image_means(true - test, channel_axis) for true, test in zip(reference, quantized, strict=True)]
    )
