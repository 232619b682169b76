"""AccuracyBudget and BudgetEvidence: counts by hand, limits at the edge, and what too few images cannot show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from counted_logits import counted

from calibration.mixed_precision.accuracy_budget import (
    AccuracyBudget,
    budget_figures,
    evidence,
    evidence_in_words,
    figures_in_words,
    joined,
)
from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter


def one_hot(*classes: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[list(classes)] * 5


def compared(reference: np.ndarray, candidate: np.ndarray, labels: list[int] | None = None) -> LogitComparison:
    meter = LogitMeter(strict=True)
    meter.add(reference, candidate, labels=labels)
    return meter.report()


def test_by_hand():
    found = compared(one_hot(0, 1, 2, 3), one_hot(0, 1, 1, 2), [0, 2, 2, 2])
    assert (found.num_images, found.num_equal) == (4, 2)
    assert (found.labelled.losses, found.labelled.gains) == (1, 1)
    assert (found.agreement, found.top1_reference, found.top1_drop_pp) == (0.5, 0.5, 0.0)
    assert budget_figures(found)["top1_candidate"] == 0.5


@pytest.mark.parametrize("labels", [[0, 1, 3], None])
def test_parts_add_up(labels):
    first = compared(one_hot(0, 1), one_hot(0, 2), labels and labels[:2])
    second = compared(one_hot(3), one_hot(3), labels and labels[2:])
    both = compared(one_hot(0, 1, 3), one_hot(0, 2, 3), labels)
    assert budget_figures(joined(first, second)) == pytest.approx(budget_figures(both))


def test_without_labels_there_is_no_drop():
    found = compared(one_hot(0), one_hot(1))
    assert (found.top1_drop_pp, budget_figures(found)["top1_reference"]) == (None, None)
    with pytest.raises(ValueError, match="needs images with labels"):
        AccuracyBudget(max_top1_drop_pp=1.0).holds(found)


def test_nan_is_an_error():
    with pytest.raises(RuntimeAdapterError, match="NaN or Inf"):
        compared(one_hot(0), one_hot(0) * np.nan)


@pytest.mark.parametrize(
    ("budget", "measured", "holds"),
    [
        (AccuracyBudget(min_agreement=0.99), counted(200, 198), True),
        (AccuracyBudget(min_agreement=0.99), counted(200, 197), False),
        (AccuracyBudget(min_agreement=1.0), counted(200, 200), True),
        (AccuracyBudget(max_top1_drop_pp=0.5), counted(200, 100, 200, 150, 1, 0), True),
        (AccuracyBudget(max_top1_drop_pp=0.5), counted(200, 100, 200, 150, 3, 1), False),
        (AccuracyBudget(max_top1_drop_pp=0.0), counted(200, 100, 200, 150, 2, 2), True),
        (AccuracyBudget(0.5, 0.99), counted(200, 197, 200, 150, 0, 0), False),
        (AccuracyBudget(0.5, 0.99), counted(200, 199, 200, 150, 2, 0), False),
    ],
)
def test_limits_at_the_edge(budget, measured, holds):
    assert budget.holds(measured) is holds


def test_a_budget_does_not_hold_on_nothing():
    with pytest.raises(ValueError, match="no image was measured"):
        AccuracyBudget(min_agreement=0.5).holds(counted())


@pytest.mark.parametrize("limits", [(), (-0.1,), (100.0,), (None, 0.0), (None, 1.1), (None, math.nan), (math.nan,)])
def test_what_is_no_budget_is_refused(limits):
    with pytest.raises(ValueError, match=r"budget|expected"):
        AccuracyBudget(*limits)


def test_fifty_images_cannot_show_half_a_point():
    budget = AccuracyBudget(max_top1_drop_pp=0.5)
    perfect = counted(50, 50, 50, 40, 0, 0)
    found = evidence(budget, perfect)
    assert budget.holds(perfect)
    assert not found.shown
    words = evidence_in_words(budget, perfect, found)
    assert "50 images are too few to show it: that takes 765 at least" in words
    assert figures_in_words(budget, perfect, found) == "top-1 drop 0.00 points (-7.13 to 7.13) on 50 images"


def test_enough_images_show_it():
    budget = AccuracyBudget(0.5, 0.99)
    found = evidence(budget, counted(5000, 4990, 5000, 4000, 2, 2))
    assert found.shown
    assert evidence_in_words(budget, counted(5000, 4990, 5000, 4000, 2, 2), found) == "shown at 95% confidence"


def test_enough_images_with_a_result_at_the_edge_do_not():
    budget = AccuracyBudget(min_agreement=0.99)
    measured = counted(1000, 991)
    assert "reaches beyond it" in evidence_in_words(budget, measured, evidence(budget, measured))


def test_a_budget_of_nothing_cannot_be_shown_at_all():
    budget = AccuracyBudget(min_agreement=1.0)
    measured = counted(100_000, 100_000)
    assert "any number of images" in evidence_in_words(budget, measured, evidence(budget, measured))
    assert evidence(budget, measured).to_json()["images_needed_to_show_it"] is None


def test_every_look_widens_the_interval():
    """Ten tries on the same images: one of them is lucky more often than one in twenty."""
    budget = AccuracyBudget(min_agreement=0.99)
    once, often = (evidence(budget, counted(400, 400), looks) for looks in (1, 10))
    assert once.shown
    assert not often.shown
    assert often.confidence == pytest.approx(0.995)
    assert often.agreement[0] < once.agreement[0]
