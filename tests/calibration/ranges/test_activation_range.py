"""activation_range: scale, zero point and dtype against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.methods.amax import MIN_AMAX, Levels
from calibration.methods.builtin_methods import Entropy, Max, MeanSquaredError, Percentile
from calibration.methods.dialect import Dialect
from calibration.methods.histogram import Histogram
from calibration.ranges.activation_range import activation_range

SEED = 20261122


def range_of(values, *, dialect=Dialect.ONNXRUNTIME, method=None):
    array = np.asarray(values, np.float32)
    histogram = Histogram()
    histogram.add(array)
    return activation_range(
        method or Max(),
        histogram,
        float(array.min()),
        float(array.max()),
        asymmetric=dialect is Dialect.ONNXRUNTIME,
    )


@pytest.mark.parametrize(
    ("values", "scale", "zero_point"),
    [
        ([0.0, 2.55], 0.01, 0),  # never below 0: all 255 steps above it
        ([1.0, 2.55], 0.01, 0),  # 0 belongs to the range even if no value is there
        ([-2.55, 0.0], 0.01, 255),
        ([-2.55, -1.0], 0.01, 255),
        ([-1.0, 1.55], 0.01, 100),
        ([-1.55, 1.0], 0.01, 155),
        ([-1.0, 1.0], 2 / 255, 128),  # 127.5, half to even
        ([-1.004, 1.546], 0.01, 100),  # 100.4
    ],
)
def test_unsigned_by_hand(values, scale, zero_point):
    got = range_of(values)
    assert got.dtype == "uint8"
    assert got.scale == pytest.approx(scale, rel=1e-6)
    assert got.zero_point == zero_point
    assert (got.min_value, got.max_value) == tuple(float(np.float32(value)) for value in values)
    assert got.max_abs == got.amax == pytest.approx(max(map(abs, values)))


@pytest.mark.parametrize(
    ("values", "low", "high"), [([0, 10], 0, 4), ([-10, 10], -4, 4), ([-10, 3], -4, 3), ([-2, 10], -2, 4)]
)
def test_the_range_ends_at_amax_or_at_the_values(values, low, high, monkeypatch):
    monkeypatch.setattr("calibration.ranges.activation_range.amax", lambda method, histogram, levels: 4.0)
    got = range_of(values)
    assert got.scale == pytest.approx((high - low) / 255)
    assert got.zero_point == round(255 * -low / (high - low))
    assert got.amax == 4.0
    assert got.max_abs == 10


@pytest.mark.parametrize("method", [Max(), Percentile(), Entropy(), MeanSquaredError()])
def test_a_dead_tensor(method):
    got = range_of(np.zeros(100), method=method)
    assert (got.amax, got.zero_point, got.max_abs) == (MIN_AMAX, 0, 0.0)
    assert got.scale == pytest.approx(MIN_AMAX / 255, rel=2e-7)


@pytest.mark.parametrize("largest", [6.0, 1.0, 0.7, 5.9951171875, 3e-3])
def test_no_level_lies_above_the_largest_value(largest):
    """Or ONNX Runtime keeps the Clip of a ReLU6, which reaches its limit, and with it a convolution in float."""
    largest = float(np.float32(largest))
    got = range_of(np.linspace(0, largest, 1000), method=Max())
    assert largest * (1 - 2e-7) < got.scale * 255 <= largest


@pytest.mark.parametrize("method", [Max(), Percentile(99.9), Entropy(), MeanSquaredError()])
@pytest.mark.parametrize("dialect", Dialect)
def test_tensorrt_stays_signed_and_symmetric(method, dialect):
    values = np.random.default_rng(SEED).normal(0.5, 1, 20_000)
    got = range_of(values, method=method, dialect=dialect)
    if dialect is Dialect.TENSORRT:
        assert (got.dtype, got.zero_point, got.min_value) == ("int8", 0, None)
        assert got.scale == np.float32(got.amax / 127)
    else:
        assert got.dtype == "uint8"
        assert 64 < got.zero_point <= 128


def squared_error(values, amax, *, low, high):
    """Quantize to 0 ... 255 and back as ONNX's QuantizeLinear does; mean squared error."""
    low, high = max(low, -amax), min(high, amax)
    scale = (high - low) / 255
    zero_point = np.rint(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, 255)
    return float(np.mean(((levels - zero_point) * scale - values) ** 2))


@pytest.mark.parametrize(
    "shape",
    [
        lambda rng: np.maximum(rng.normal(0, 1, 50_000), 0),
        lambda rng: rng.laplace(0, 1, 50_000),
        lambda rng: np.maximum(rng.laplace(0, 1, 50_000), -0.8),
        lambda rng: rng.gamma(0.5, 2.0, 50_000),
    ],
    ids=["relu", "laplace", "skewed", "gamma"],
)
def test_mse_is_judged_on_the_levels_that_there_are(shape):
    """No clip value does better on the data itself; the histogram and the rounded zero point may cost 1 %."""
    values = shape(np.random.default_rng(SEED)).astype(np.float32).astype(np.float64)
    low, high = min(values.min(), 0), values.max()
    got = range_of(values, method=MeanSquaredError())
    best = min(squared_error(values, amax, low=low, high=high) for amax in np.linspace(0.1, 1, 400) * got.max_abs)
    assert squared_error(values, got.amax, low=low, high=high) <= 1.01 * best


def test_twice_the_levels_keep_more():
    values = np.random.default_rng(SEED).exponential(1, 100_000)
    signed = range_of(values, method=MeanSquaredError(), dialect=Dialect.TENSORRT)
    unsigned = range_of(values, method=MeanSquaredError())
    assert unsigned.amax > 1.03 * signed.amax, "finer steps make clipping the larger error"
    assert unsigned.scale < 0.65 * signed.scale


def test_levels_up_to_a_value():
    assert Levels().num_up_to(3.0) == 128
    assert Levels(255).num_up_to(3.0) == 256
    assert Levels(255, other_side=3.0).num_up_to(3.0) == 129  # 127.5 steps, half to even
    assert Levels(255, other_side=1.0).num_up_to(4.0) == 205
    assert Levels(255).num_up_to(0.0) == 256
