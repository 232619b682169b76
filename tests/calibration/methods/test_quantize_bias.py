"""INT32 biases by hand, and the channels whose bias would not fit."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.methods.quantize_bias import BIAS_QMAX, bias_scale, least_weight_scale, quantize_bias
from calibration.methods.quantize_weight import MIN_SCALE, quantize_weight


def test_by_hand():
    scale = bias_scale(0.5, np.array([0.25, 0.125], np.float32))
    assert scale.dtype == np.float32
    assert scale.tolist() == [0.125, 0.0625]
    steps = quantize_bias(np.array([1.0, -0.40625], np.float32), scale)
    assert steps.dtype == np.int32
    assert steps.tolist() == [8, -6]  # 6.5 rounds to even


def test_a_bias_beyond_int32_is_refused():
    with pytest.raises(CalibrationError, match=r"a bias of 6000000000\.0 at scale 2\.0 is 3e\+09 steps, beyond INT32"):
        quantize_bias(np.array([0.0, 6e9], np.float32), np.array([1.0, 2.0], np.float32))


@pytest.mark.parametrize("weight", [1e-12, 1e-30, 0.0], ids=str)
def test_a_channel_that_was_switched_off_keeps_its_bias(weight):
    """Next to no weight and a bias of 0.3: a scale from the weight alone gives 1e12 steps, a scale of 1 gives 15."""
    weights = np.array([[0.5, -1.0], [weight, 0.0]], np.float32)
    bias = np.array([0.1, 0.3], np.float32)
    quantized = quantize_weight(weights, axis=0, least_scale=least_weight_scale(bias, 0.02))
    scale = bias_scale(0.02, quantized.scale)
    steps = quantize_bias(bias, scale)
    assert np.abs(steps).max() <= BIAS_QMAX + 64  # float32 scales
    assert np.allclose(steps * scale.astype(np.float64), bias, rtol=1e-6)
    assert quantized.scale[0] == np.float32(1 / 127), "other channels are as they were"
    assert quantized.values[0].tolist() == [64, -127]


def test_scales_that_fit_are_not_touched():
    weight = np.random.default_rng(3).normal(size=(8, 4, 3, 3)).astype(np.float32)
    bias = np.random.default_rng(4).normal(size=8).astype(np.float32)
    plain = quantize_weight(weight, axis=0)
    widened = quantize_weight(weight, axis=0, least_scale=least_weight_scale(bias, 0.02))
    assert np.array_equal(plain.scale, widened.scale)
    assert np.array_equal(plain.values, widened.values)


def test_the_scale_of_a_bias_is_a_normal_number():
    """Both scales are, their product is not: 1e-25 squared."""
    weight = np.full((1, 4), 1e-23, np.float32)
    least = least_weight_scale(np.zeros(1, np.float32), 1e-25)
    quantized = quantize_weight(weight, axis=0, least_scale=least)
    assert bias_scale(1e-25, quantized.scale)[0] >= 0.999 * MIN_SCALE


def test_nan_is_refused():
    with pytest.raises(CalibrationError, match="a bias to quantize holds NaN or Inf"):
        least_weight_scale(np.array([1.0, np.nan], np.float32), 0.1)
