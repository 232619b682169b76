"""How every range settled while the images came in, and whether it had settled at the end.

The amax of every tensor is noted after 1, 2, 4, 8, ... images and after the last. A scale is `amax / steps`, so it
moves as amax does. Two questions are answered from these curves: after how many images did nothing move any more, and
were ranges still moving in the last doubling, so that more images would have given others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from calibration.errors import CalibrationError
from calibration.methods.histogram import Histogram
from runtimes.io.json_fields import JsonFields
from runtimes.io.json_types import check_kinds, finite

MOVED = 0.10
"""A scale that moves by this much has moved. The step follows the scale and the rounding noise the step squared, so
10 % is 20 log10(1.1) = 0.8 dB of that tensor's noise; below 1 dB hardly shows in the logits."""

MOVED_FAR = 0.50
"""One scale that moves by this much is told alone: 3.5 dB, or a third of the range clipped."""

MAX_MOVED_SHARE = 0.25
"""Share of the scales that may move by `MOVED` in the last doubling without a warning. A maximum grows as long as
images come: with n values of an exponential tail, that of twice as many is larger by a share r with probability
1 / (1 + n**r), so for n = 1e7 by 10 % in 17 % of the tensors, by 50 % in 0.03 %, however many images there were. More
than that is not chance. Source: extreme value theory, the difference of two Gumbel variables is logistic. Measured:
of 22 scales of a ResNet-20 on digits, 2 with max and 0 with mse moved so from 64 to 128 images."""

_MAX_LOG = 700.0  # the exponential of more is beyond float64, as where a range went from 1e-300 to 1e300

TOLERANCES = (0.01, 0.05)
"""Numbers of images at which `report.json` records the ranges."""


@dataclass(frozen=True, slots=True)
class Convergence(JsonFields):
    """The amax of every tensor, in tensor units, after 1, 2, 4, ... and after all images."""

    num_images: tuple[int, ...]
    amax: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        """Refuse curves that do not belong together."""
        if not self.num_images or self.num_images[0] < 1 or list(self.num_images) != sorted(set(self.num_images)):
            raise CalibrationError(f"convergence: got image counts {self.num_images}, expected them ascending")
        if any(len(curve) != len(self.num_images) or min(curve) <= 0 for curve in self.amax.values()):
            raise CalibrationError(f"convergence: expected {len(self.num_images)} values > 0 of every tensor")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Convergence:
        """Return what `to_json` wrote.

        Raises:
            CalibrationError: If the curves do not belong together.
            KeyError, TypeError: If a key is missing or of a wrong type.
        """
        num_images = tuple(content["num_images"])
        for count in num_images:
            check_kinds({"num_images": count}, {"num_images": int})
        amax = {name: tuple(finite(name, value) for value in curve) for name, curve in content["amax"].items()}
        return cls(num_images, amax)


@dataclass(frozen=True, slots=True)
class StillMoving:
    """A warning: ranges had not settled when the images ended.

    Attributes:
        start: Images after which the last stretch begins, at most half of all.
        end: All images.
        num_tensors: How many ranges there are.
        moved: Tensor name to its movement per doubling of the images, as a share, largest first; those above `MOVED`.
    """

    start: int
    end: int
    num_tensors: int
    moved: Mapping[str, float]

    def __str__(self) -> str:
        """Say what was seen, what was expected, what to do."""
        name, most = next(iter(self.moved.items()))
        return (
            f"the scales had not settled: from {self.start} to {self.end} images {len(self.moved)} of "
            f"{self.num_tensors} moved by more than {MOVED:.0%} per doubling, most {name} by {most:.0%}; expected at "
            f"most {MAX_MOVED_SHARE:.0%} of them, and none by {MOVED_FAR:.0%}. Use more images, such as {2 * self.end}"
        )


@dataclass(slots=True)
class ConvergenceTracker:
    """Notes the amax of every tensor at powers of two."""

    amax_of: Callable[[str, Histogram], float]
    _counts: list[int] = field(init=False, default_factory=list)
    _curves: dict[str, list[float]] = field(init=False, default_factory=dict)

    def note(self, num_images: int, histograms: Mapping[str, Histogram]) -> None:
        """Take the ranges of now down; a second note at the same count does nothing."""
        if self._counts and self._counts[-1] == num_images:
            return
        self._counts.append(num_images)
        for name, histogram in histograms.items():
            self._curves.setdefault(name, []).append(self.amax_of(name, histogram))

    def convergence(self) -> Convergence:
        """Return the curves so far."""
        return Convergence(tuple(self._counts), {name: tuple(curve) for name, curve in self._curves.items()})


def noted_counts(first: int, last: int) -> tuple[int, ...]:
    """Return the powers of two above `first` and up to `last`."""
    powers = (1 << exponent for exponent in range(first.bit_length(), last.bit_length()))
    return tuple(power for power in powers if first < power <= last)


def images_until_settled(convergence: Convergence, tolerance: float) -> int | None:
    """Return the count after which no scale is off its last value by more than a share.

    Returns:
        One of `num_images`, or None where even the count before the last is off: nothing shows that they settled.
    """
    counts = convergence.num_images
    settled = len(counts) - 1
    while settled > 0 and all(
        abs(curve[settled - 1] / curve[-1] - 1) <= tolerance for curve in convergence.amax.values()
    ):
        settled -= 1
    return None if settled == len(counts) - 1 else counts[settled]


def still_moving(convergence: Convergence) -> StillMoving | None:
    """Return a warning where the last doubling of the images moved the scales, or None.

    The stretch is from the largest noted count that is at most half of all to the end, one to two doublings; what it
    moved is shared out evenly over the doublings.
    """
    counts = convergence.num_images
    earlier = [place for place, count in enumerate(counts) if 2 * count <= counts[-1]]
    if not earlier:
        return None
    start = earlier[-1]
    doublings = math.log2(counts[-1]) - math.log2(counts[start])  # of the counts: their quotient may leave float
    moves = {
        name: math.expm1(min(abs(math.log(curve[-1]) - math.log(curve[start])) / doublings, _MAX_LOG))
        for name, curve in convergence.amax.items()
    }
    moved = dict(sorted(((name, move) for name, move in moves.items() if move > MOVED), key=lambda item: -item[1]))
    if len(moved) <= MAX_MOVED_SHARE * len(moves) and max(moved.values(), default=0.0) <= MOVED_FAR:
        return None
    return StillMoving(counts[start], counts[-1], len(moves), moved)


def summary(convergence: Convergence) -> dict[str, Any]:
    """Return what `report.json` says: images until settled, by tolerance, and what was moving at the end."""
    warning = still_moving(convergence)
    return {
        "num_images": convergence.num_images[-1],
        "images_until_settled": {
            f"{tolerance:g}": images_until_settled(convergence, tolerance) for tolerance in TOLERANCES
        },
        "still_moving": {} if warning is None else dict(warning.moved),
    }
