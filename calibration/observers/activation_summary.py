"""Observations beside the ranges: how they settled, what the input looks like, which channels are alive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.methods.histogram import Histogram
from calibration.observers.convergence import Convergence
from calibration.observers.input_statistics import InputStatistics
from runtimes.io.json_fields import JsonFields, json_fields
from runtimes.io.json_types import check_kinds, finite

TYPICAL_PERCENTILE = 99.0
"""The typical large value of a tensor: |x| that 99 % of its values that are not zero stay below."""


NUM_COARSE_BINS = 128
"""Bins of what is kept of a histogram, half of them or more below the largest value: enough to look at, about 800 bytes
per tensor in calibration.json."""


@dataclass(frozen=True, slots=True)
class CoarseHistogram:
    """Counts of |x| from 0 on, `NUM_COARSE_BINS` at most, without zeros at the end; `bin_width` > 0 in tensor units."""

    bin_width: float
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the histogram for `calibration.json`, its counts as one line of text."""
        return {"bin_width": self.bin_width, "counts": " ".join(map(str, self.counts))}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CoarseHistogram:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        check_kinds({"histogram": content}, {"histogram": dict})
        check_kinds(content, {"counts": str})
        counts = tuple(int(count) for count in content["counts"].split())
        bin_width = finite("bin_width", content["bin_width"])
        if bin_width <= 0 or len(counts) > NUM_COARSE_BINS or any(count < 0 for count in counts):
            raise ValueError(
                f"histogram: got bins of {bin_width:g} and {len(counts)} counts, expected widths and counts"
            )
        return cls(bin_width, counts)


@dataclass(frozen=True, slots=True)
class ActivationSummary(JsonFields):
    """One tensor over all images.

    Attributes:
        low: Exact least value; 0 where the graph rules out values below 0.
        high: Exact largest value.
        typical: Of |x| without zeros, the 99th percentile, within a bin of the histogram; 0 for a dead tensor.
        num_channels: How many channels.
        dead_channels: Those that never were above 0, ascending.
        quartile_channel: Largest |x| of the channel that a quarter of the others stay below, among those that are not 0
            throughout; 0 if all are.
        histogram: How |x| is distributed; None in older tables.
    """

    low: float
    high: float
    typical: float
    num_channels: int
    dead_channels: tuple[int, ...]
    quartile_channel: float
    histogram: CoarseHistogram | None = None

    @property
    def max_abs(self) -> float:
        """The largest |x|."""
        return max(self.high, -self.low)

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a histogram only where there is one."""
        content = json_fields(self)
        if self.histogram is None:
            del content["histogram"]
        return content


@dataclass(frozen=True, slots=True)
class Observed(JsonFields):
    """Everything seen on the way to the ranges; activations by tensor name."""

    convergence: Convergence
    input: InputStatistics
    activations: Mapping[str, ActivationSummary]

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
    kept = seen.get("histogram")
    histogram = None if kept is None else CoarseHistogram.from_json(kept)
    return ActivationSummary(
        low, high, typical, seen["num_channels"], tuple(seen["dead_channels"]), quartile, histogram
    )


def typical_abs(histogram: Histogram) -> float:
    """Return the upper edge of the bin below which 99 % of the values lie that are not zero (not in bin 0)."""
    counts = histogram.counts
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(counts), TYPICAL_PERCENTILE / 100 * total))
    return min((place + 1) * histogram.bin_width, histogram.max_abs)


def coarse_histogram(histogram: Histogram) -> CoarseHistogram:
    """Return the histogram in `NUM_COARSE_BINS` bins over the same range; its number of bins is a multiple of that."""
    merged = histogram.counts.reshape(NUM_COARSE_BINS, -1).sum(axis=1)
    used = int(np.flatnonzero(merged)[-1]) + 1 if merged.any() else 0
    width = histogram.bin_width * (histogram.num_bins // NUM_COARSE_BINS)
    return CoarseHistogram(width, tuple(int(count) for count in merged[:used]))
