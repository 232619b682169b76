"""Bias correction by hand, and what it does where the difference is chance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calibration.refinement.bias_correction import bias_correction, channel_means

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


def test_means_by_hand() -> None:
    batch = np.float32([[[[1, 2], [3, 4]], [[0, 0], [0, 8]]]])
    assert_array_equal(channel_means([batch, 2 * batch]), [[2.5, 2.0], [5.0, 4.0]])


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 4, 6), 1), ((5, 3), 1), ((5, 7, 3), -1), ((5, 3), -1)])
def test_means_of_every_layout(shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(SEED).normal(size=shape).astype(np.float32)
    others = tuple(place for place in range(1, len(shape)) if place != axis % len(shape))
    found = channel_means(np.split(values, [1, 4]), axis)
    assert found.dtype == np.float64
    assert_allclose(found, values.mean(axis=others), atol=1e-6)
