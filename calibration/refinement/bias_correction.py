"""Bias correction: give every channel of a quantized layer the mean it has in float.

Rounding and clipping shift the mean of a layer's output, most of all where large parts of an image are flat and every
pixel there is off by the same amount. Such errors do not average out; they add up from layer to layer. The shift,
measured on images, goes into the bias, where it costs nothing.

    d[n, c] = mean over the positions of image n of the reference - that of the quantized output
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


def channel_means(batches: Sequence[Tensor], channel_axis: int = 1) -> NDArray[np.float64]:
    """Return the mean over positions of each channel of each image, float64 [num_images, C].

    Args:
        batches: A layer's outputs, float32 [n, ...] with C on `channel_axis`, any n per batch.
        channel_axis: Where the channels are.
    """
    axis = channel_axis % batches[0].ndim
    others = tuple(place for place in range(1, batches[0].ndim) if place != axis)
    return np.concatenate([batch.mean(axis=others, dtype=np.float64) for batch in batches])


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
