"""Bias correction by hand, and what it does where the difference is chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calibration.correct_bias import bias_correction, layer_difference

SEED = 20261128


def test_a_shift_that_every_image_shows_is_corrected_in_full() -> None:
    assert_array_equal(bias_correction(np.tile([0.5, -2.0, 0.0], (4, 1))), [0.5, -2.0, 0.0])


def test_the_correction_by_hand() -> None:
    """Means 1 and 3: mean 2, variance 2, of the mean 1; 2 (1 - 1 / 4) = 1.5."""
    assert_allclose(bias_correction(np.array([[1.0], [3.0]])), [1.5])


def test_what_chance_explains_is_left_alone() -> None:
    """Means 1 and -1 say nothing, 4 and -1 too little: mean 1.5, variance of it 6.25 > 2.25."""
    assert_array_equal(bias_correction(np.array([[1.0, 4.0], [-1.0, -1.0]])), [0.0, 0.0])


def test_of_one_image_nothing_is_learnt() -> None:
    assert_array_equal(bias_correction(np.array([[5.0, -5.0]])), [0.0, 0.0])


def test_channels_of_pure_chance_lose_most_of_their_error() -> None:
    """Against the plain mean: over 4000 channels without a shift, the correction adds a quarter of its error."""
    means = np.random.default_rng(SEED).normal(size=(16, 4000))
    corrected, plain = bias_correction(means), means.mean(axis=0)
    assert np.square(corrected).mean() < 0.45 * np.square(plain).mean()
    assert np.mean(corrected == 0) > 0.6, "|mean| is below one deviation of itself in 68 % of the channels"


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_clear_shift_is_hardly_shrunk(shift: float) -> None:
    means = shift + np.random.default_rng(SEED).normal(0, 0.5, (64, 1000))
    assert bias_correction(means).mean() == pytest.approx(shift, rel=0.02)


def test_the_difference_of_two_layers_by_hand() -> None:
    reference = np.float32([[[[1, 2], [3, 4]], [[0, 0], [0, 0]]]])
    quantized = np.float32([[[[0, 2], [3, 3]], [[1, 1], [1, 1]]]])
    difference = layer_difference([reference], [quantized])
    assert_array_equal(difference.means, [[0.5, -1.0]])
    assert (difference.num_positions, difference.signal, difference.noise) == (4, 30.0, 6.0)
    assert difference.sqnr_db() == pytest.approx(10 * math.log10(30 / 6))


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 4, 6), 1), ((5, 3), 1), ((5, 7, 3), -1), ((5, 3), -1)])
def test_sqnr_after_a_correction_is_that_of_the_corrected_output(shape: tuple[int, ...], axis: int) -> None:
    random = np.random.default_rng(SEED)
    reference = random.normal(size=shape).astype(np.float32)
    quantized = reference + random.normal(0.3, 0.1, shape).astype(np.float32)
    added = random.normal(0.3, 0.05, 3)
    along = [1] * len(shape)
    along[axis] = 3
    cuts = [1, 4]
    difference = layer_difference(np.split(reference, cuts), np.split(quantized, cuts), axis)
    others = tuple(place for place in range(1, len(shape)) if place != axis % len(shape))
    assert_allclose(difference.means, (reference - quantized).mean(axis=others), atol=1e-6)
    for each in (np.zeros(3), added):
        noise = np.square(reference - quantized - each.reshape(along)).sum()
        expected = 10 * math.log10(np.square(reference).sum() / noise)
        assert difference.sqnr_db(each) == pytest.approx(expected, abs=1e-3)
    assert difference.sqnr_db() == difference.sqnr_db(np.zeros(3))


def test_without_noise_or_signal_there_is_no_ratio() -> None:
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert layer_difference([ones], [ones]).sqnr_db() is None
    assert layer_difference([zeros], [ones]).sqnr_db() is None
    assert layer_difference([ones], [zeros]).sqnr_db(1.0) is None, "the correction removes all of it"
