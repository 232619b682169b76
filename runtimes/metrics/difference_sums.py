"""Adds up how two arrays of the same shape differ, batch by batch, in float64.

SQNR     10 log10( sum reference^2 / sum (reference - candidate)^2 )  in dB
cosine   sum reference * candidate / ( |reference| |candidate| ); 1 where no value differs, by definition and not by
         what is left of it after rounding: in which order a processor adds is no difference between two models
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class DifferenceSums:
    """Sums over every batch added."""

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self.max_abs_reference = 0.0
        self.sum_abs_diff = 0.0
        self._signal = self._other = self._product = self._noise = 0.0

    def add(self, reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        """Add one batch of finite values, float64 of equal shape."""
        difference = reference - candidate
        distance = np.abs(difference)
        self._signal += _dot(reference, reference)
        self._other += _dot(candidate, candidate)
        self._product += _dot(reference, candidate)
        self._noise += _dot(difference, difference)
        self.sum_abs_diff += float(distance.sum())
        self.max_abs_diff = max(self.max_abs_diff, float(distance.max(initial=0.0)))
        self.max_abs_reference = max(self.max_abs_reference, float(np.abs(reference).max(initial=0.0)))

    def include(self, other: DifferenceSums) -> None:
        """Add what another has added up."""
        self._signal += other._signal
        self._other += other._other
        self._product += other._product
        self._noise += other._noise
        self.sum_abs_diff += other.sum_abs_diff
        self.max_abs_diff = max(self.max_abs_diff, other.max_abs_diff)
        self.max_abs_reference = max(self.max_abs_reference, other.max_abs_reference)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise in dB; None where it is no finite number: no noise, or no signal."""
        if self._signal > 0.0 and self._noise > 0.0:
            return 10.0 * math.log10(self._signal / self._noise)
        return None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two, -1 to 1; None where one of them is zero everywhere."""
        lengths = math.sqrt(self._signal) * math.sqrt(self._other)
        if lengths == 0.0:
            return None
        if self.max_abs_diff == 0.0:
            return 1.0
        return min(1.0, max(-1.0, self._product / lengths))


def _dot(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the sum of products; not by BLAS, whose threads split a long sum otherwise on every machine."""
    return float(np.einsum("i,i->", first.ravel(), second.ravel()))
