"""What calibration saw besides the ranges: how they settled, what the input looks like, which channels live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.convergence import Convergence
from calibration.histogram import Histogram
from calibration.input_statistics import InputStatistics
from runtimes.json_kinds import check_kinds, finite

TYPICAL_PERCENTILE = 99.0
"""The typical large value of a tensor: |x| that 99 % of its values that are not zero stay below."""


@dataclass(frozen=True, slots=True)
class ActivationSummary:
    """One tensor over all images.

    Attributes:
        low: Exact least value; 0 where the graph rules out values below 0.
        high: Exact largest value.
        typical: Of |x| without zeros, the 99th percentile, within a bin of the histogram; 0 for a dead tensor.
        num_channels: How many channels.
        dead_channels: Those that never were above 0, ascending.
        quartile_channel: Largest |x| of the channel that a quarter of the others stay below, among those that are not 0
            throughout; 0 if all are.
    """

    low: float
    high: float
    typical: float
    num_channels: int
    dead_channels: tuple[int, ...]
    quartile_channel: float

    @property
    def max_abs(self) -> float:
        """The largest |x|."""
        return max(self.high, -self.low)


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything seen on the way to the ranges.

    Attributes:
        convergence: How each range settled.
        input: What the images look like.
        activations: Tensor name to what it held.
    """

    convergence: Convergence
    input: InputStatistics
    activations: Mapping[str, ActivationSummary]

    def to_json(self) -> dict[str, Any]:
        """Return what `calibration.json` holds below "observed"."""
        return {
            "convergence": self.convergence.to_json(),
            "input": self.input.to_json(),
            "activations": {
                name: {
                    "low": seen.low,
                    "high": seen.high,
                    "typical": seen.typical,
                    "num_channels": seen.num_channels,
                    "dead_channels": list(seen.dead_channels),
                    "quartile_channel": seen.quartile_channel,
                }
                for name, seen in self.activations.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Observed:
        """Return what `to_json` wrote.

        Raises:
            CalibrationError, KeyError, TypeError, ValueError, AttributeError: If it is something else.
        """
        return cls(
            Convergence.from_json(content["convergence"]),
            InputStatistics.from_json(content["input"]),
            {name: _activation_from_json(seen) for name, seen in content["activations"].items()},
        )


def _activation_from_json(seen: Mapping[str, Any]) -> ActivationSummary:
    check_kinds(seen, {"num_channels": int, "dead_channels": list})
    for channel in seen["dead_channels"]:
        check_kinds({"dead_channels": channel}, {"dead_channels": int})
    low, high, typical, quartile = (finite(name, seen[name]) for name in ("low", "high", "typical", "quartile_channel"))
    return ActivationSummary(low, high, typical, seen["num_channels"], tuple(seen["dead_channels"]), quartile)


def typical_abs(histogram: Histogram) -> float:
    """Return the upper edge of the bin below which 99 % of the values lie that are not zero (not in bin 0)."""
    counts = histogram.counts
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(counts), TYPICAL_PERCENTILE / 100 * total))
    return min((place + 1) * histogram.bin_width, histogram.max_abs)
