"""The ways from histogram to amax, as values: `Max()`, `Percentile(99.9)`, `Entropy()`, `MeanSquaredError()`, `Auto()`.

`amax(method, histogram)` is the one place that tells them apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class Max:
    """The largest |x|; clips nothing."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """The amax that keeps a share of the values.

    Attributes:
        percentile: In percent, 0 < percentile <= 100.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        check_percentile(self.percentile)


@dataclass(frozen=True, slots=True)
class Entropy:
    """The amax of least KL(reference || quantized).

    Attributes:
        num_bins: Bins over [0, max], at least 128 (256 for unsigned levels); the histogram must have twice as many.
    """

    num_bins: int = ENTROPY_NUM_BINS

    def __post_init__(self) -> None:
        if self.num_bins < ENTROPY_NUM_LEVELS:
            raise ValueError(f"num_bins: got {self.num_bins}, expected at least {ENTROPY_NUM_LEVELS}, such as 2048")


@dataclass(frozen=True, slots=True)
class MeanSquaredError:
    """The amax of least squared quantization error."""


@dataclass(frozen=True, slots=True)
class Auto:
    """Mean squared error, but for tensors where another of `CANDIDATES` brings the logits nearer to the float ones.

    A histogram alone gives the start; `calibration.refinement.choose_ranges` goes on from there.
    """


Method: TypeAlias = Max | Percentile | Entropy | MeanSquaredError | Auto

_KINDS: dict[str, type[Max] | type[Percentile] | type[Entropy] | type[MeanSquaredError] | type[Auto]] = {
    "max": Max,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquaredError,
    "auto": Auto,
}
METHOD_NAMES = tuple(_KINDS)
"""The command-line words."""

CANDIDATES: tuple[Method, ...] = (MeanSquaredError(), Max(), Percentile(), Entropy())
"""What `Auto` chooses from; the first is where it starts."""


def method_from_name(name: str) -> Method:
    """Return the method a command-line word stands for, with its default options.

    Args:
        name: "max", "percentile", "entropy", "mse" or "auto".

    Raises:
        ValueError: If it is another word; the message lists these.
    """
    if name not in _KINDS:
        raise ValueError(f"calibration method: got {name!r}, expected one of {', '.join(_KINDS)}")
    return _KINDS[name]()


def describe(method: Method) -> dict[str, str | int | float]:
    """Return the method as JSON holds it: its command-line word as "name", then its options."""
    name = next(word for word, kind in _KINDS.items() if isinstance(method, kind))
    return {"name": name, **asdict(method)}


def amax(method: Method, histogram: Histogram, levels: Levels = INT8) -> float:
    """Return the amax the method gives for a histogram.

    Args:
        method: Which way.
        histogram: Counts of |x| of one tensor.
        levels: Which levels there are; the largest value and percentiles do not depend on it.

    Returns:
        The amax, in tensor units, > 0.

    Raises:
        EmptyHistogramError: If the histogram holds no value.
        TypeError: If `method` is none of the five, such as a command-line word.
        ValueError: If the histogram has too few bins for `Entropy`.
    """
    match method:
        case Max():
            return max_amax(histogram)
        case Percentile(percentile):
            return percentile_amax(histogram, percentile)
        case Entropy(num_bins):
            return entropy_amax(histogram, num_bins=num_bins, num_levels=levels.num_up_to(histogram.max_abs))
        case MeanSquaredError() | Auto():
            return mse_amax(histogram, levels)
        case _:
            raise TypeError(f"got {method!r}, expected a calibration method; see method_from_name()")
