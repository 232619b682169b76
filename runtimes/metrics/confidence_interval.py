"""Decide what a number of images can show: intervals for shares, two-sided, and McNemar's test of a difference.

    share of n images       Wilson's score interval
    difference of shares    Tango's score interval, for two models on the same n images: only images on which they
                            differ count, `losses` (only the reference is right) and `gains` (only the candidate)

Without any loss or gain, Tango's interval is [-u, u] with the upper end u = z^2 / (n + z^2) of Wilson's for 0 of n: so
many images tell how small a change can be shown at all.

A claim about one end only ("at least 95 % agree") at confidence c is the end of the two-sided interval at 2 c - 1: at
95 %, of the 90 % interval, as equivalence tests take it (Schuirmann 1987, "A comparison of the two one-sided tests
procedure and the power approach", J. Pharmacokinetics and Biopharmaceutics 15).

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22; Tango 1998,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample design", Statistics
in Medicine 17, equations 8 to 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

CONFIDENCE = 0.95

_NUM_HALVINGS = 60
"""Of an interval no longer than 2: exact to float64."""


def wilson_interval(successes: int, num_images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the share `successes` / `num_images`; `confidence`, 0 to 1, is of both ends together.

    Raises:
        ValueError: If the counts contradict each other.
    """
    if not 0 <= successes <= num_images or num_images < 1:
        raise ValueError(f"got {successes} of {num_images}, expected a count within at least one image")
    z2 = _z(confidence) ** 2
    share = successes / num_images
    center = (share + z2 / (2 * num_images)) / (1 + z2 / num_images)
    reach = math.sqrt(z2 * share * (1 - share) / num_images + z2**2 / (4 * num_images**2)) / (1 + z2 / num_images)
    low = 0.0 if successes == 0 else center - reach  # exact at the ends, where rounding would leave 1 - 1e-16
    high = 1.0 if successes == num_images else center + reach
    return low, high


def paired_drop_interval(
    losses: int, gains: int, num_images: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of (losses - gains) / num_images, -1 to 1; of losses only the reference is right.

    Raises:
        ValueError: If the counts contradict each other.
    """
    if min(losses, gains) < 0 or losses + gains > num_images or num_images < 1:
        raise ValueError(f"got {losses} losses and {gains} gains in {num_images} images, expected parts of a whole")
    z = _z(confidence)
    drop = (losses - gains) / num_images
    upper = _last_below(lambda delta: -_tango(losses, gains, num_images, delta) < z, drop, 1.0)
    lower = -_last_below(lambda delta: _tango(losses, gains, num_images, -delta) < z, -drop, 1.0)
    return lower, upper


def mcnemar_exact(losses: int, gains: int) -> float:
    """Return the exact two-sided p-value, 0 to 1, of "losing and gaining an image are equally likely".

        p = min(1, 2 P(X <= min(losses, gains))),   X binomial with losses + gains trials and chance 1/2

    Raises:
        ValueError: If a count is negative.

    Source: McNemar 1947, Psychometrika 12, exact binomial form; Agresti 2013, "Categorical Data Analysis", 11.1.
    """
    if min(losses, gains) < 0:
        raise ValueError(f"got {losses} losses and {gains} gains, expected counts")
    trials = losses + gains
    ways, tail = 1, 0  # whole numbers: exact for any count
    for count in range(min(losses, gains) + 1):
        tail += ways
        ways = ways * (trials - count) // (count + 1)
    return min(1.0, float(Fraction(2 * tail, 2**trials)))


def images_to_show(smallest: float, confidence: float = CONFIDENCE) -> float:
    """Return how many images tell a share of `smallest`, 0 to 1, from none at all, at best; infinity for 0.

    Both intervals end at z^2 / (n + z^2) when no image at all differs.
    """
    if smallest <= 0:
        return math.inf
    return float(math.ceil(_z(confidence) ** 2 * (1 - smallest) / smallest - 1e-9))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _tango(losses: int, gains: int, n: int, delta: float) -> float:
    """Return the score statistic of the hypothesis that the drop is `delta`, standard normal where it is."""
    a = 2 * n
    b = -losses - gains + (2 * n - losses + gains) * delta
    c = -gains * delta * (1 - delta)
    both = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))  # the gains' share under the hypothesis
    variance = n * (2 * both + delta * (1 - delta))
    distance = losses - gains - n * delta
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _last_below(inside: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds at `low` ends, or `high`, by bisection."""
    if inside(high):
        return high
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low
