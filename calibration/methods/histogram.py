"""Streaming histogram of |x| for one tensor: one pass, fixed memory, no range known in advance.

A bin is `2**k` wide, with the least integer k whose range `num_bins * 2**k` lies strictly above the largest
|x|. When a larger value arrives, k grows by some n and every `2**n` neighboring bins become one. As
`floor(x / 2**(k + n)) == floor(x / 2**k) >> n`, nothing is interpolated: in the end x counts in bin
`floor(x / bin_width)`, whatever the order and the batching of the data. Half of the bins or more lie below the maximum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import NonFiniteActivationError

DEFAULT_NUM_BINS = 4096
"""16 to 32 bins per INT8 step of amax = max; never below the 2048 over [0, max] of the entropy method."""

MIN_NUM_BINS = 256
"""At least one bin below the maximum for each of the 127 INT8 steps."""

_MIN_EXPONENT = -1022
"""k while only zeros were seen, and its lower bound: the bin width is a normal float64 (IEEE 754)."""

_FLOAT32_EXPONENTS = range(-126, 128)
"""float32 holds 2**k as a normal number for these k (IEEE 754)."""


class Histogram:
    """Counts of |x| in bins of equal, power-of-two width, from 0 upwards.

    Bin j counts `j * bin_width <= |x| < (j + 1) * bin_width`; the range never ends below a value.

    Args:
        num_bins: Even, at least 256. Between half and all of them cover [0, max_abs].

    Raises:
        ValueError: If `num_bins` is odd or too small.
    """

    __slots__ = ("_counts", "_exponent", "_max_abs")

    def __init__(self, num_bins: int = DEFAULT_NUM_BINS) -> None:
        if num_bins < MIN_NUM_BINS or num_bins % 2:
            raise ValueError(f"num_bins: got {num_bins}, expected an even number of at least {MIN_NUM_BINS}")
        self._counts: NDArray[np.int64] = np.zeros(num_bins, np.int64)
        self._exponent = _MIN_EXPONENT
        self._max_abs = 0.0

    def __repr__(self) -> str:
        return f"Histogram(num_bins={self.num_bins}, num_values={self.num_values}, max_abs={self.max_abs:g})"

    @property
    def num_bins(self) -> int:
        """Number of bins, fixed for the life of the histogram."""
        return len(self._counts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Values per bin, int64 [num_bins]; a copy."""
        counts: NDArray[np.int64] = self._counts.copy()
        return counts

    @property
    def bin_width(self) -> float:
        """Width of every bin in tensor units, a power of two; 2**-1022 while only zeros were seen."""
        return math.ldexp(1.0, self._exponent)

    @property
    def max_abs(self) -> float:
        """The exact largest |x| seen or announced, in tensor units; 0 before the first."""
        return self._max_abs

    @property
    def num_values(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def add(self, values: NDArray[np.floating[Any]], *, max_abs: float | None = None) -> None:
        """Count |values|.

        Args:
            values: float16, float32 or float64 array of any shape and strides; unchanged. May be empty.
            max_abs: The largest |x| of the full tensor where `values` is a sample of it: covered, too.

        Raises:
            NonFiniteActivationError: If a value or `max_abs` is NaN or Inf; nothing is counted then.
            TypeError: If `values` is not a floating array.
            ValueError: If `max_abs` is below the largest |values|.
        """
        magnitudes = _magnitudes(values)
        largest = float(magnitudes.max(initial=0))  # NaN if any value is
        if not math.isfinite(largest):
            num_bad = magnitudes.size - int(np.isfinite(magnitudes).sum())
            raise NonFiniteActivationError(
                f"got {num_bad} NaN or Inf among {magnitudes.size} values, expected finite activations; "
                "check the weights, the preprocessing and this batch"
            )
        if max_abs is not None and max_abs < largest:
            raise ValueError(
                f"max_abs: got {max_abs!r}, expected at least the largest |value| given, {largest!r}; "
                "pass the maximum of |x| over the full tensor"
            )
        self.observe_max(largest if max_abs is None else max_abs)
        # The cast is a floor: nothing is negative.
        indices = _scaled_by_power_of_two(magnitudes, -self._exponent).astype(np.intp)
        self._counts += np.bincount(indices, minlength=self.num_bins)

    def observe_max(self, max_abs: float) -> None:
        """Make the range cover `max_abs`, without counting a value.

        Args:
            max_abs: A largest |x|, in tensor units, >= 0.

        Raises:
            NonFiniteActivationError: If it is NaN or Inf.
            ValueError: If it is negative.
        """
        max_abs = float(max_abs)
        if not math.isfinite(max_abs):
            raise NonFiniteActivationError(
                f"got a maximum of {max_abs}, expected a finite one; "
                "check the weights, the preprocessing and this batch"
            )
        if max_abs < 0:
            raise ValueError(f"max_abs: got {max_abs!r}, expected >= 0, the maximum of absolute values")
        if max_abs > self._max_abs:
            exponent = _width_exponent(max_abs, self.num_bins)
            self._counts = _merge_neighbours(self._counts, exponent - self._exponent)
            self._exponent = exponent
            self._max_abs = max_abs


def _magnitudes(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return |values| as a new flat array, float32 or float64, in memory order."""
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"got a {values.dtype.name} array, expected float16, float32 or float64; cast before add()")
    magnitudes = np.abs(values, dtype=np.float32) if values.dtype == np.float16 else np.abs(values)
    return np.ravel(magnitudes, order="K")


def _scaled_by_power_of_two(values: NDArray[np.floating[Any]], exponent: int) -> NDArray[np.floating[Any]]:
    """Return `values * 2**exponent`, its integer part exact; may overwrite `values`.

    Only a product below the least normal number may be rounded; its integer part is 0 either way.
    """
    if exponent not in _FLOAT32_EXPONENTS:
        values = values.astype(np.float64)
    values *= values.dtype.type(math.ldexp(1.0, exponent))
    return values


def _width_exponent(max_abs: float, num_bins: int) -> int:
    """Return the least k, not below -1022, with `max_abs < num_bins * 2**k`; exact, no logarithm."""
    fraction, exponent = math.frexp(max_abs)
    bins_fraction, bins_exponent = math.frexp(num_bins)
    return max(exponent - bins_exponent + (fraction >= bins_fraction), _MIN_EXPONENT)


def _merge_neighbours(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Return int64 [num_bins] where bin `j >> doublings` holds the counts of bin j."""
    if doublings == 0:
        return counts
    merged = np.zeros_like(counts)
    if doublings >= len(counts).bit_length():  # every index shifts to 0; the stride may not fit 64 bits
        merged[0] = counts.sum()
    else:
        sums = np.add.reduceat(counts, np.arange(0, len(counts), 1 << doublings))
        merged[: len(sums)] = sums
    return merged
