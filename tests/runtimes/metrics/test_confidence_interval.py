"""Intervals: against SciPy, published examples and their own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from runtimes.metrics.confidence_interval import images_to_show, mcnemar_exact, paired_drop_interval, wilson_interval


@pytest.mark.parametrize(("successes", "num_images"), [(0, 50), (50, 50), (99, 100), (3, 17), (0, 1), (49_876, 50_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(successes, num_images, confidence):
    expected = stats.binomtest(successes, num_images).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, num_images, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_tango_gives_the_published_example():
    """Airway hyper-responsiveness before and after transplantation, 1 and 7 discordant of 21.

    Source: Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33, table of intervals: -0.517 to -0.026.
    """
    assert paired_drop_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("counts", [(1, 7, 21), (40, 20, 160), (3, 0, 360), (0, 3, 360), (5, 5, 40), (12, 1, 5000)])
def test_tango_ends_where_the_constrained_score_test_rejects(counts):
    """The definition, with the constrained maximum likelihood searched on a grid instead of solved."""
    losses, gains, num_images = counts
    z = stats.norm.ppf(0.975)
    for end in paired_drop_interval(*counts):
        most = (1 - abs(end)) / 2
        gain_share = np.linspace(max(0.0, -end), max(0.0, -end) + most, 400_001)[1:-1]
        loss_share = gain_share + end
        rest = 1 - gain_share - loss_share
        counted = zip((losses, gains, num_images - losses - gains), (loss_share, gain_share, rest), strict=True)
        likelihood = sum(count * np.log(np.maximum(share, 1e-300)) for count, share in counted if count)
        best = gain_share[np.argmax(likelihood)]
        variance = num_images * (2 * best + end - end**2)
        score = (losses - gains - num_images * end) / math.sqrt(variance)
        assert abs(score) == pytest.approx(z, rel=2e-3)


def test_swapping_losses_and_gains_mirrors_the_interval():
    low, high = paired_drop_interval(9, 2, 300)
    assert paired_drop_interval(2, 9, 300) == pytest.approx((-high, -low), abs=1e-12)


def test_without_any_change_the_drop_is_as_uncertain_as_a_share_of_zero():
    upper = wilson_interval(0, 50)[1]
    assert paired_drop_interval(0, 0, 50) == pytest.approx((-upper, upper), abs=1e-12)
    assert upper > 0.07, "fifty images cannot show half a point"


def test_everything_lost_and_everything_gained():
    low, high = paired_drop_interval(50, 0, 50)
    assert 0.8 < low < high == 1.0
    assert paired_drop_interval(0, 50, 50) == pytest.approx((-high, -low))


@pytest.mark.parametrize("smallest", [0.005, 0.01, 0.002, 0.1])
def test_images_to_show_is_the_first_number_whose_interval_is_small_enough(smallest):
    needed = int(images_to_show(smallest))
    assert paired_drop_interval(0, 0, needed)[1] <= smallest + 1e-12
    assert paired_drop_interval(0, 0, needed - 1)[1] > smallest
    assert wilson_interval(needed, needed)[0] >= 1 - smallest - 1e-12


def test_nothing_can_never_be_shown():
    assert images_to_show(0.0) == math.inf
    assert (images_to_show(0.005), images_to_show(0.01)) == (765, 381)


@pytest.mark.parametrize("counts", [(3, 2), (-1, 5), (0, 0)])
def test_contradicting_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected a count"):
        wilson_interval(*counts)


@pytest.mark.parametrize("counts", [(3, 3, 5), (-1, 0, 5), (0, 0, 0)])
def test_contradicting_paired_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected parts of a whole"):
        paired_drop_interval(*counts)


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (1, 0), (3, 9), (25, 12), (7, 7), (0, 40), (1500, 1400)])
def test_mcnemar_is_the_exact_binomial_test(losses, gains):
    expected = stats.binomtest(losses, losses + gains, 0.5).pvalue if losses + gains else 1.0
    assert mcnemar_exact(losses, gains) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="-1 losses"):
        mcnemar_exact(-1, 2)
