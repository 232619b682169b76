"""Curves by hand, and the tracker on distributions whose maxima grow as theory says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.methods.amax import max_amax
from calibration.methods.histogram import Histogram
from calibration.observers.convergence import (
    Convergence,
    ConvergenceTracker,
    images_until_settled,
    noted_counts,
    still_moving,
    summary,
)


def curves(counts, **amax):
    return Convergence(tuple(counts), {name: tuple(curve) for name, curve in amax.items()})


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0, 1, (1,)), (0, 9, (1, 2, 4, 8)), (8, 16, (16,)), (5, 7, ()), (4, 4, ()), (63, 130, (64, 128)), (3, 4, (4,))],
)
def test_noted_counts_are_the_powers_of_two_of_a_batch(first, last, expected):
    assert noted_counts(first, last) == expected


def test_settled_by_hand():
    convergence = curves((1, 2, 4, 8, 16), a=(1, 2, 3.9, 4, 4), b=(5, 5, 5, 5, 5))
    assert images_until_settled(convergence, 0.05) == 4
    assert images_until_settled(convergence, 0.01) == 8
    assert images_until_settled(convergence, 1.0) == 1


def test_the_last_point_alone_settles_nothing():
    convergence = curves((1, 2, 4), a=(1, 2, 3))
    assert images_until_settled(convergence, 0.05) is None
    assert images_until_settled(curves((1,), a=(1,)), 0.05) is None, "one image shows nothing"


def test_a_scale_that_came_back_was_not_settled_in_between():
    assert images_until_settled(curves((1, 2, 4, 8), a=(4, 2, 4, 4)), 0.01) == 4


def ten(count, factor):
    """Ten tensors, `count` of which grow by `factor` from 32 to 64 images."""
    grown = {f"grown{place}": (1.0, 1.0, factor) for place in range(count)}
    return curves((16, 32, 64), **grown, **{f"still{place}": (1.0, 1.0, 1.0) for place in range(10 - count)})


@pytest.mark.parametrize(
    ("count", "factor", "warns"),
    [(2, 1.11, False), (3, 1.11, True), (1, 1.49, False), (1, 1.51, True), (10, 1.09, False), (3, 1 / 1.11, True)],
)
def test_warns_when_many_moved_or_one_moved_far(count, factor, warns):
    warning = still_moving(ten(count, factor))
    assert (warning is not None) is warns
    if warning is not None:
        assert (warning.start, warning.end, warning.num_tensors, len(warning.moved)) == (32, 64, 10, count)


def test_the_warning_says_what_was_seen_what_was_expected_and_what_to_do():
    convergence = curves((32, 64), a=(1.0, 1.23), b=(2.0, 2.24), c=(1.0, 1.0))
    assert str(still_moving(convergence)) == (
        "the scales had not settled: from 32 to 64 images 2 of 3 moved by more than 10% per doubling, most a by 23%; "
        "expected at most 25% of them, and none by 50%. Use more images, such as 128"
    )


def test_movement_over_more_than_a_doubling_is_shared_out():
    """From 32 to 127 images is nearly two doublings: 1.44 is 1.2 in each."""
    warning = still_moving(curves((32, 64, 127), a=(1.0, 1.2, 1.44), b=(1.0, 1.2, 1.44)))
    assert warning is not None
    assert warning.start == 32
    assert warning.moved["a"] == pytest.approx(0.2, abs=0.005)


def test_one_image_is_no_convergence_and_no_warning():
    assert still_moving(curves((1,), a=(3.0,))) is None


def test_exponential_tails_move_as_often_as_the_limit_says():
    """1 / (1 + n**r) for the share of tensors whose maximum grows by r when n values become 2 n."""
    generator = np.random.default_rng(9)
    n = 100_000
    # The maximum of n exponential values, drawn by inverting its distribution (1 - exp(-x)) ** n.
    first, second = -np.log(-np.expm1(np.log(generator.random((2, 20_000))) / n))
    moved = np.mean(np.maximum(first, second) / first - 1 > 0.10)
    assert moved == pytest.approx(1 / (1 + n**0.10), abs=0.03)


def histograms(values):
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return {"x": histogram}


@pytest.mark.parametrize(("alpha", "warns"), [(1.0, True), (20.0, False)])
def test_heavy_tails_warn_and_light_ones_do_not(alpha, warns):
    """The maximum of Pareto values grows by 2 ** (1 / alpha) with each doubling: 100 % or 4 %, in the median."""
    generator = np.random.default_rng(7)
    ends = []
    for _ in range(20):
        values = generator.pareto(alpha, 64 * 1000) + 1
        tracker = ConvergenceTracker(lambda name, histogram: max_amax(histogram))
        for count in (1, 2, 4, 8, 16, 32, 64):
            tracker.note(count, histograms(values[: count * 1000]))
        ends.append(tracker.convergence().amax["x"])
    together = Convergence((1, 2, 4, 8, 16, 32, 64), {f"t{place}": curve for place, curve in enumerate(ends)})
    assert (still_moving(together) is not None) is warns


def test_a_count_is_noted_once():
    tracker = ConvergenceTracker(lambda name, histogram: max_amax(histogram))
    tracker.note(4, histograms(np.ones(3)))
    tracker.note(4, histograms(np.ones(3) * 9))
    assert tracker.convergence() == curves((4,), x=(1.0,))


def test_json_there_and_back():
    convergence = curves((1, 2, 3), a=(0.1, 1 / 3, 2.0))
    assert Convergence.from_json(json.loads(json.dumps(convergence.to_json()))) == convergence


@pytest.mark.parametrize(
    ("counts", "curve"), [((), ()), ((2, 1), (1.0, 1.0)), ((1, 1), (1.0, 1.0)), ((1, 2), (1.0,)), ((1, 2), (0.0, 1.0))]
)
def test_curves_that_do_not_belong_together(counts, curve):
    with pytest.raises(CalibrationError, match="convergence"):
        curves(counts, a=curve)


def test_the_reports_summary():
    assert summary(curves((32, 64), a=(1.0, 1.0))) == {
        "num_images": 64,
        "images_until_settled": {"0.01": 32, "0.05": 32},
        "still_moving": {},
    }
    assert summary(curves((32, 64), a=(1.0, 2.0)))["still_moving"] == {"a": pytest.approx(1.0)}


def test_a_range_that_went_from_nothing_to_the_end_of_float64_is_told():
    warning = still_moving(curves((1, 2, 4), a=(1e-320, 1e-320, 1e308)))
    assert warning is not None
    assert np.isfinite(warning.moved["a"])


@pytest.mark.parametrize(
    "content",
    [
        {"num_images": [0, 1], "amax": {}},
        {"num_images": [1, 2.0], "amax": {}},
        {"num_images": [True, 2], "amax": {}},
        {"num_images": [1], "amax": {"x": [10**400]}},
        {"num_images": [1], "amax": {"x": [float("inf")]}},
        {"num_images": [1], "amax": {"x": ["1"]}},
    ],
)
def test_curves_of_a_wrong_kind(content):
    with pytest.raises((CalibrationError, TypeError, ValueError)):
        Convergence.from_json(content)


def test_counts_beyond_float_from_a_damaged_file_are_judged_too():
    huge = curves((1, 10**400), a=(1.0, 3.0))
    assert still_moving(huge) is None
