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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LayerDifference:
    """What a layer's float output has and its quantized output lacks, over some images.

    Attributes:
        means: Mean of reference - quantized per image and channel, float64 [num_images, C].
        num_positions: Values per image and channel.
        signal: Sum of the squared reference.
        noise: Sum of the squared difference.
    """

    means: NDArray[np.float64]
    num_positions: int
    signal: float
    noise: float

    def sqnr_db(self, added: NDArray[np.float64] | float = 0.0) -> float | None:
        """Return signal to noise in dB, None where there is no noise or no signal.

        Args:
            added: What is added to each channel of the quantized output, float64 [C].
        """
        num_images, num_channels = self.means.shape
        shift = np.broadcast_to(added, num_channels)
        change = num_images * np.square(shift).sum() - 2.0 * np.vdot(self.means.sum(axis=0), shift)
        noise = self.noise + self.num_positions * float(change)
        return 10.0 * float(np.log10(self.signal / noise)) if self.signal > 0 and noise > 0 else None


def layer_difference(
    reference: Sequence[Tensor], quantized: Sequence[Tensor], channel_axis: int = 1
) -> LayerDifference:
    """Compare a layer's outputs, batch by batch: float32 [n, ...] with C on `channel_axis`, any n per batch."""
    means, signal, noise = [], 0.0, 0.0
    axis = channel_axis % reference[0].ndim
    others = tuple(place for place in range(1, reference[0].ndim) if place != axis)
    for true, test in zip(reference, quantized, strict=True):
        difference = true - test
        means.append(difference.mean(axis=others, dtype=np.float64))
        signal += float(np.vdot(true, true))
        noise += float(np.vdot(difference, difference))
    first = reference[0]
    return LayerDifference(np.concatenate(means), first[0].size // first.shape[axis], signal, noise)


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
