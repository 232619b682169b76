"""What the comparison computes: hand-computed numbers, and SciPy as a second source."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, rel_entr, softmax

from benchmarks.quantizer_statistics import compare_logits, expected_agreement, mcnemar_exact_p, mean_kl_softmax

SEED = 20261122


def test_mcnemar_by_hand():
    # 1 lost and 5 gained of 6 changed: 2 (C(6,0) + C(6,1)) / 64.
    assert mcnemar_exact_p(1, 5) == pytest.approx(14 / 64)
    assert mcnemar_exact_p(5, 1) == pytest.approx(14 / 64)
    assert mcnemar_exact_p(0, 10) == pytest.approx(2 / 1024)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (1, 0)])
def test_nothing_that_chance_does_not_do_gives_one(lost, gained):
    assert mcnemar_exact_p(lost, gained) == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (2, 9), (17, 31), (400, 500), (900, 1100)])
def test_mcnemar_equals_the_binomial_test(lost, gained):
    """Also where 2 ** (lost + gained) is larger than any float."""
    assert mcnemar_exact_p(lost, gained) == pytest.approx(stats.binomtest(lost, lost + gained).pvalue, rel=1e-9)


def test_kl_by_hand():
    """Two classes: reference (1/2, 1/2), candidate (3/4, 1/4): ln(2/3)/2 + ln(2)/2 = ln(4/3)/2."""
    reference = np.zeros((1, 2), np.float32)
    candidate = np.array([[math.log(3.0), 0.0]], np.float32)
    assert mean_kl_softmax(reference, candidate) == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)


def test_kl_equals_scipy():
    random = np.random.default_rng(SEED)
    reference = random.normal(0, 5, (50, 8)).astype(np.float32)
    candidate = (reference + random.normal(0, 0.5, reference.shape)).astype(np.float32)
    expected = rel_entr(softmax(reference.astype(np.float64), 1), softmax(candidate.astype(np.float64), 1)).sum(1)
    assert mean_kl_softmax(reference, candidate) == pytest.approx(expected.mean(), rel=1e-9)


def test_kl_is_finite_where_a_probability_underflows():
    reference = np.array([[0.0, 0.0]], np.float32)
    candidate = np.array([[0.0, -2000.0]], np.float32)
    expected = 0.5 * (math.log(0.5) * 2 - log_softmax([0.0, -2000.0]).sum())
    assert mean_kl_softmax(reference, candidate) == pytest.approx(expected)


def test_compare_counts_lost_and_gained():
    reference = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    candidate = np.array([[2, 0], [0, 2], [0, 2], [0, 2]], np.float32)
    accuracy = compare_logits(reference, candidate, [0, 0, 1, 1])
    assert (accuracy.num_lost, accuracy.num_gained, accuracy.p_value) == (1, 1, 1.0)
    assert (accuracy.agreement, accuracy.top1_float, accuracy.top1) == (0.5, 0.75, 0.75)


def test_compare_without_labels_has_no_top1():
    logits = np.eye(3, dtype=np.float32)
    accuracy = compare_logits(logits, logits + np.float32(0.1), None)
    assert (accuracy.top1, accuracy.p_value, accuracy.agreement) == (None, None, 1.0)
    assert accuracy.sqnr_db == pytest.approx(10 * math.log10(3 / 0.09), abs=1e-4)


def test_margins_let_expect_what_chance_does():
    """Normal errors on two classes: the share that keeps its best class, drawn, is the one expected."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(20_000, 2))
    noise = generator.normal(scale=0.3, size=reference.shape)
    for less_db in (0.0, 6.0):
        got = reference + noise * 10 ** (-less_db / 20)
        kept = np.mean(reference.argmax(axis=1) == got.argmax(axis=1))
        assert expected_agreement(reference, reference + noise, less_db) == pytest.approx(kept, abs=0.005)


def test_an_image_whose_best_logits_are_equal_is_lost_half_of_the_time():
    reference, got = np.array([[1.0, 1.0, 0.0], [9.0, 0.0, 0.0]]), np.array([[1.1, 1.0, 0.0], [9.0, 0.0, 0.0]])
    assert expected_agreement(reference, got) == 0.75
