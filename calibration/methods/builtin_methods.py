"""The package's own ways from histogram to amax: largest value, percentile, least entropy, least squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from calibration.methods.amax import (
    ENTROPY_NUM_BINS,
    ENTROPY_NUM_LEVELS,
    INT8,
    Levels,
    check_percentile,
    entropy_amax,
    max_amax,
    mse_amax,
    percentile_amax,
)
from calibration.methods.histogram import Histogram
from calibration.methods.method import Method


@dataclass(frozen=True, slots=True)
class Max(Method):
    """The largest |x|; clips nothing."""

    name: ClassVar[str] = "max"
    needs_few_samples: ClassVar[bool] = True

    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """See `Method.amax`."""
        return max_amax(histogram)


@dataclass(frozen=True, slots=True)
class Percentile(Method):
    """The amax that keeps a share of the values.

    Attributes:
        percentile: In percent, 0 < percentile <= 100.
    """

    name: ClassVar[str] = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        check_percentile(self.percentile)

    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """See `Method.amax`."""
        return percentile_amax(histogram, self.percentile)


@dataclass(frozen=True, slots=True)
class Entropy(Method):
    """The amax of least KL(reference || quantized).

    Attributes:
        num_bins: Bins over [0, max], at least 128 (256 for unsigned levels); the histogram must have twice as many.
    """

    name: ClassVar[str] = "entropy"
    num_bins: int = ENTROPY_NUM_BINS

    def __post_init__(self) -> None:
        if self.num_bins < ENTROPY_NUM_LEVELS:
            raise ValueError(f"num_bins: got {self.num_bins}, expected at least {ENTROPY_NUM_LEVELS}, such as 2048")

    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """See `Method.amax`."""
        num_levels = levels.num_up_to(histogram.max_abs)
        return entropy_amax(histogram, num_bins=self.num_bins, num_levels=num_levels)


@dataclass(frozen=True, slots=True)
class MeanSquaredError(Method):
    """The amax of least squared quantization error."""

    name: ClassVar[str] = "mse"

    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """See `Method.amax`."""
        return mse_amax(histogram, levels)


@dataclass(frozen=True, slots=True)
class Auto(Method):
    """Mean squared error, but for tensors where another of `CANDIDATES` brings the logits nearer to the float ones.

    A histogram alone gives the start; `calibration.refinement.choose_ranges` goes on from there.
    """

    name: ClassVar[str] = "auto"

    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """See `Method.amax`."""
        return mse_amax(histogram, levels)


CANDIDATES: tuple[Method, ...] = (MeanSquaredError(), Max(), Percentile(), Entropy())
"""Methods that `Auto` chooses from; it starts with the first."""
