"""From a histogram of |x| to amax, the largest absolute value that 8 bits keep.

Symmetric INT8 has the levels -127 to 127: `scale = amax / 127`, and |x| above amax is clipped to it; `Levels` says it
where the levels are others. Each function is pure and works in units of the bin width, a power of two, so a tensor
multiplied by `2**k` gets an amax multiplied by exactly `2**k`. All raise EmptyHistogramError on a histogram without
values, and give a dead tensor `MIN_AMAX`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.errors import EmptyHistogramError
from calibration.methods.histogram import Histogram
from calibration.methods.quantize_weight import MIN_SCALE, QMAX

MIN_AMAX = QMAX * 2.0**-13
"""The amax of a dead tensor, one that is zero on every calibration image (or so near to it that amax / 127
is no normal float32). Its scale is 2**-13: exact in float32 and float16, > 0 as TensorRT asserts ("Scale
coefficients must all be positive", ONNX parser 8.6 and 10.1), and above 2**-14, the least normal float16."""

ENTROPY_NUM_BINS = 2048
"""Bins over [0, max] of the entropy method. Source: Migacz 2017."""

ENTROPY_NUM_LEVELS = 128
"""Non-negative INT8 levels of the entropy method, and its smallest clip in bins. Source: Migacz 2017."""

_ENTROPY_TIE = 1e-10
"""Divergences (nats) nearer than this are ties: above float64 rounding, below any difference that matters."""

_MSE_SPAN = 1024.0
_MSE_NUM_COARSE = 100
_MSE_NUM_FINE = 25
"""Clip values of the mse method: geometric from max / 1024 to max, then twice linear around the best, which
leaves about 0.05 percent of amax between neighbors. Measured in tests/calibration/methods/test_amax.py."""

_MSE_TIE = 1e-12
"""Squared errors nearer than this share of the sum of squares (-120 dB; INT8 gives about -45) are ties."""


@dataclass(frozen=True, slots=True)
class Levels:
    """How many steps there are, and over what: `scale(amax) = (amax + min(amax, other_side)) / num_steps`.

    Attributes:
        num_steps: 127 where they reach from 0 to amax (symmetric INT8 mirrors them), 255 for UINT8.
        other_side: Largest |x| on the side of 0 where values are smaller, in tensor units, if the steps have to
            cover both sides; 0 if they begin at 0.
    """

    num_steps: int = QMAX
    other_side: float = 0.0

    def scales(self, amax: NDArray[np.float64], unit: float = 1.0) -> NDArray[np.float64]:
        """Return the scale of each amax, float64 of the same shape; both in multiples of `unit` tensor units."""
        scales: NDArray[np.float64] = (amax + np.minimum(amax, self.other_side / unit)) / self.num_steps
        return scales

    def num_up_to(self, max_abs: float) -> int:
        """Return the number of levels from 0 to `max_abs`, 0 included, when nothing is clipped."""
        return 1 + (round(self.num_steps * max_abs / (max_abs + self.other_side)) if max_abs else self.num_steps)


INT8 = Levels()
"""Symmetric INT8: scale = amax / 127."""


def max_amax(histogram: Histogram) -> float:
    """Return the largest |x| observed: nothing is clipped.

    Args:
        histogram: Counts of |x|; only its exact maximum is used.

    Returns:
        The amax, in tensor units, > 0.

    Raises:
        EmptyHistogramError: If the histogram holds no value.

    Source: Wu et al. 2020, arXiv:2004.09602 (max calibration).
    """
    _require_values(histogram)
    return _usable(histogram.max_abs)


def check_percentile(percentile: float) -> None:
    """Raise unless `0 < percentile <= 100`.

    Raises:
        ValueError: Naming what was got.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile: got {percentile!r}, expected 0 < percentile <= 100, in percent such as 99.99")


def percentile_amax(histogram: Histogram, percentile: float) -> float:
    """Return the amax that keeps `percentile` percent of the observed |x|.

    Linear inside a bin, so it is within one bin width of the least value that has `percentile` percent of all
    values at or below it. Zeros count: where more than `percentile` percent of a tensor is zero, the amax
    lies in bin 0, and nearly every value that is not zero is clipped.

    Args:
        histogram: Counts of |x|.
        percentile: In percent, 0 < percentile <= 100 (99.99 clips one value in 10 000); 100 clips none.

    Returns:
        The amax, in tensor units, > 0 and not above the maximum.

    Raises:
        EmptyHistogramError: If the histogram holds no value.
        ValueError: If `percentile` is out of range.

    Source: Wu et al. 2020, arXiv:2004.09602 (percentile calibration).
    """
    check_percentile(percentile)
    _require_values(histogram)
    if percentile == 100:
        return max_amax(histogram)
    counts = histogram.counts
    cumulative = np.cumsum(counts)
    wanted = percentile / 100 * int(cumulative[-1])
    index = int(np.searchsorted(cumulative, wanted))  # the first bin that reaches it, so counts[index] > 0
    missing = float(cumulative[index]) - wanted
    amax = (index + 1 - missing / float(counts[index])) * histogram.bin_width
    return _usable(min(amax, histogram.max_abs))


def entropy_amax(
    histogram: Histogram, *, num_bins: int = ENTROPY_NUM_BINS, num_levels: int = ENTROPY_NUM_LEVELS
) -> float:
    """Return the amax with the least KL(reference || quantized).

    The counts are rebinned to `num_bins` over [0, max], evenly inside a bin. For each clip i, from
    `num_levels` to `num_bins`, the reference is the first i bins with everything above added to the last;
    the quantized distribution is the first i bins without it, merged into `num_levels` groups, each spread
    evenly over its non-empty bins. Every i is evaluated.

    Three choices, all those of NVIDIA's pytorch-quantization and Model Optimizer:

    - Bin 0 takes the count of bin 1 (on a copy). After a ReLU most values are zeros, which every scale
      represents exactly; left in, their peak outweighs all that the clip changes.
    - Where the reference has mass and the quantized distribution none (an empty last bin with outliers above
      it) the divergence is infinite and the clip is out. ONNX Runtime smooths both by 1e-4 instead.
    - Ties go to the larger amax.

    A histogram that counted only zeros below an announced maximum gives that maximum.

    Args:
        histogram: Counts of |x|, in at least `2 * num_bins` bins.
        num_bins: Bins over [0, max], at least `num_levels`.
        num_levels: Non-negative levels, at least 2.

    Returns:
        The amax, in tensor units: the upper edge of the last bin kept, `max * num_levels / num_bins` or more.

    Raises:
        EmptyHistogramError: If the histogram holds no value.
        ValueError: If `num_bins` is below `num_levels` or above what the histogram resolves.

    Source: Migacz 2017, "8-bit Inference with TensorRT" (GTC S7310); NVIDIA TensorRT
    `tools/pytorch-quantization` and Model Optimizer, both `calib/histogram.py`.
    """
    _require_values(histogram)
    if not 2 <= num_levels <= num_bins <= histogram.num_bins // 2:
        raise ValueError(
            f"entropy: got num_levels {num_levels} and num_bins {num_bins}, expected "
            f"2 <= num_levels <= num_bins <= {histogram.num_bins // 2}, half the bins of the histogram; "
            "use fewer, or collect into a Histogram of more"
        )
    if histogram.max_abs < QMAX * MIN_SCALE:
        return MIN_AMAX
    counts = _rebinned(histogram, num_bins)
    counts[0] = counts[1]
    if not counts.any():
        return max_amax(histogram)
    divergences = _kl_divergences(counts, num_levels)
    clip = num_levels + _last_within(divergences, _ENTROPY_TIE)
    return _usable(clip / num_bins * histogram.max_abs)


def mse_amax(histogram: Histogram, levels: Levels = INT8) -> float:
    """Return the amax with the least mean squared error of 8-bit quantize-dequantize.

    The error is integrated exactly over each bin, its values taken as evenly spread, so that steps near the
    bin width are judged rightly too. Two bins are points: bin 0, zeros, which every scale represents
    exactly, and the bin of the maximum, the maximum. A geometric scan over [max / 1024, max] is refined
    twice around the best; the maximum itself is always tried. Ties go to the larger amax. The limit is the
    bin width: where the maximum is hundreds of times the rest, that lies in few bins and is judged roughly.

    Args:
        histogram: Counts of |x|.
        levels: Which levels there are.

    Returns:
        The amax, in tensor units, > 0 and not above the maximum.

    Raises:
        EmptyHistogramError: If the histogram holds no value.

    Source: NVIDIA Model Optimizer, `calib/histogram.py` (there the values sit at bin centers).
    """
    _require_values(histogram)
    if histogram.max_abs < QMAX * MIN_SCALE:
        return MIN_AMAX
    counts = histogram.counts.astype(np.float64)
    largest = histogram.max_abs / histogram.bin_width  # in bins; exact
    tie = _MSE_TIE * float(counts @ np.square(np.arange(len(counts))))
    candidates = np.geomspace(largest / _MSE_SPAN, largest, _MSE_NUM_COARSE)
    unit = histogram.bin_width
    sums = _sums_above(counts, largest)
    best = _last_within(_squared_errors(sums, candidates, levels.scales(candidates, unit)), tie)
    for _ in range(2):
        low, high = candidates[max(best - 1, 0)], candidates[min(best + 1, len(candidates) - 1)]
        candidates = np.union1d(np.linspace(low, high, _MSE_NUM_FINE), candidates[best])
        best = _last_within(_squared_errors(sums, candidates, levels.scales(candidates, unit)), tie)
    return _usable(float(candidates[best]) * histogram.bin_width)


def _require_values(histogram: Histogram) -> None:
    """Raise EmptyHistogramError if nothing was counted."""
    if histogram.num_values == 0:
        raise EmptyHistogramError(
            "got a histogram without values, expected at least one; add() calibration batches first"
        )


def _usable(amax: float) -> float:
    """Return `amax`, or MIN_AMAX where its scale would not be a normal float32 number."""
    return amax if amax >= QMAX * MIN_SCALE else MIN_AMAX


def _last_within(errors: NDArray[np.float64], tolerance: float) -> int:
    """Return the last index whose error is within `tolerance` of the least."""
    return int(np.flatnonzero(errors <= errors.min() + tolerance)[-1])


def _rebinned(histogram: Histogram, num_bins: int) -> NDArray[np.float64]:
    """Return the counts in `num_bins` equal bins over [0, max_abs], float64 [num_bins], fractional.

    The values of a bin are taken as evenly spread, those of the last one from its lower edge to the maximum.
    """
    largest = histogram.max_abs / histogram.bin_width
    num_occupied = int(largest) + 1
    edges = np.arange(num_occupied + 1, dtype=np.float64)
    edges[-1] = largest
    cumulative = np.concatenate([[0], np.cumsum(histogram.counts[:num_occupied])]).astype(np.float64)
    total = cumulative[-1]
    rebinned = np.interp(np.arange(num_bins + 1) * (largest / num_bins), edges, cumulative)
    rebinned[-1] = total  # the last bin may have no width, or the last edge be rounded below the maximum
    counts: NDArray[np.float64] = np.diff(rebinned)
    counts[counts < total * 2.0**-40] = 0.0  # rounding at the edges leaves crumbs; an empty bin is empty
    return counts


def _kl_divergences(counts: NDArray[np.float64], num_levels: int) -> NDArray[np.float64]:
    """Return KL(reference || quantized) in nats for every clip, float64 [num_bins - num_levels + 1].

    With p the reference counts (sum T), m_g the mass and n_g the non-empty bins of group g, C the mass kept:

        KL = (sum_j p_j ln p_j - sum_g p_g ln(m_g / n_g)) / T - ln T + ln C

    where p_g is m_g, plus the outliers in the last group. Prefix sums give each clip in O(num_levels).

    Args:
        counts: float64 [num_bins], not all zero; a clip keeps bins [0, i), i from `num_levels` to num_bins.
        num_levels: Groups; group g holds the bins j with `g <= j * num_levels / i < g + 1`.
    """
    clips = np.arange(num_levels, len(counts) + 1)
    mass = _prefix_sums(counts)
    occupied = _prefix_sums((counts > 0).astype(np.float64))
    bounds = -(-clips[:, np.newaxis] * np.arange(num_levels + 1) // num_levels)  # ceil, exact
    group_mass = np.diff(mass[bounds], axis=1)
    group_occupied = np.diff(occupied[bounds], axis=1)
    log_spread = np.log(np.where(group_mass > 0, group_mass / np.maximum(group_occupied, 1), 1.0))

    kept, total = mass[clips], mass[-1]
    outliers = total - kept
    last = counts[clips - 1]
    reference = _prefix_sums(_x_log_x(counts))[clips - 1] + _x_log_x(last + outliers)
    quantized = np.einsum("ij,ij->i", group_mass, log_spread) + outliers * log_spread[:, -1]
    impossible = (kept == 0) | ((outliers > 0) & (last == 0))
    divergences = (reference - quantized) / total - math.log(total) + np.log(np.where(impossible, 1.0, kept))
    return np.where(impossible, np.inf, divergences)


def _prefix_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of the first 0, 1, ... values, float64 [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x ln x, 0 at 0."""
    return values * np.log(np.where(values > 0, values, 1.0))


class _SumsAbove(NamedTuple):
    """Counts and sums above each edge of a histogram, x in bins.

    Edges go from 0 to one beyond the bin that holds the maximum; arrays are float64 [num_edges].

    Attributes:
        counts: How many values lie above each edge.
        sums: Their sum.
        inside: The values spread evenly over the bin that ends at each edge; 0 for bin 0 and the maximum's.
        sum_of_squares: Of all values.
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    inside: NDArray[np.float64]
    sum_of_squares: float


def _sums_above(counts: NDArray[np.float64], largest: float) -> _SumsAbove:
    """Sum up what `_squared_errors` looks up.

    Args:
        counts: float64 [num_bins]; bin j spans [j, j + 1), but bin 0 is zeros and the bin of the maximum the maximum.
        largest: The maximum, in bins.
    """
    top = int(largest)
    inside = np.zeros(top + 2)
    inside[2:-1] = counts[1:top]
    middles = np.arange(top + 2) - 0.5
    above = np.cumsum(inside[::-1])[::-1] - inside
    sums = np.cumsum((inside * middles)[::-1])[::-1] - inside * middles
    squares = inside @ (np.square(middles) + 1 / 12)
    point = counts[top]
    return _SumsAbove(above + point, sums + point * largest, inside, float(squares + point * largest**2))


def _squared_errors(
    above: _SumsAbove, candidates: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the summed squared quantization error for every amax, float64 [num_candidates].

    With N = round(amax / s) levels above 0, step s puts x at level n = min(round(x / s), N), which is how many of the
    borders b_k = (k - 1/2) s, k = 1 to N, lie below x. So with A(b) and B(b) the number and the sum of the values
    above b

        sum (x - n s)**2  =  sum x**2  -  2 s sum_k B(b_k)  +  s**2 sum_k (2 k - 1) A(b_k)

    which takes N look-ups for each candidate and no pass over the bins. Where b falls inside the bin that ends at edge
    e, its c evenly spread values add c (e - b) to A and c (e**2 - b**2) / 2 to B. The terms are some 1e5 times the
    result at most, so float64 leaves ten digits of it, and ties are wider than that.

    Args:
        above: Of the histogram.
        candidates: Clip values in bins, float64 [num_candidates], > 0 and not above the maximum: so no border is.
        steps: The step of each, in bins, float64 [num_candidates], > 0.
    """
    tops = np.rint(candidates / steps)[:, np.newaxis]
    levels = np.arange(1, tops.max() + 1)
    borders = steps[:, np.newaxis] * (levels - 0.5)  # [num_candidates, N]
    exists = levels <= tops
    if are_fewer := not exists.all():
        borders *= exists  # none beyond the last edge
    ends = borders.astype(np.intp) + 1  # the cast is a floor
    width = ends - borders
    part = above.inside.take(ends)
    part *= width
    counts = above.counts.take(ends)
    counts += part
    sums = above.sums.take(ends)
    sums += part * (ends - width / 2)
    if are_fewer:
        counts *= exists
        sums *= exists
    errors: NDArray[np.float64] = (
        above.sum_of_squares - 2 * steps * sums.sum(axis=1) + np.square(steps) * (counts @ (2 * levels - 1))
    )
    return errors
