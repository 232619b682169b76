from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.errors import NonFiniteActivationError
from calibration.methods.histogram import Histogram

SEED = 20260101


def histogram_of(*batches, num_bins=4096):
    histogram = Histogram(num_bins)
    for batch in batches:
        histogram.add(np.asarray(batch, np.float32))
    return histogram


def assert_same(left, right):
    assert left.bin_width == right.bin_width
    assert left.max_abs == right.max_abs
    np.testing.assert_array_equal(left.counts, right.counts)


def wide_values(n):
    """float32 [n] over 60 orders of magnitude, with zeros and denormals."""
    generator = np.random.default_rng(SEED)
    exponents = generator.integers(-140, 60, n)
    values = np.ldexp(generator.uniform(-1, 1, n), exponents).astype(np.float32)
    values[::7] = 0
    return values


# Hand-computed


def edges_of(histogram):
    return np.arange(histogram.num_bins + 1) * histogram.bin_width


def test_counts_by_hand():
    # 256 bins of width 1 cover [0, 256): 255 is the largest value below it that needs width 1.
    histogram = histogram_of([0.0, -0.0, 0.5, 1.0, -1.5, 2.0, 255.0], num_bins=256)
    assert histogram.bin_width == 1.0
    assert histogram.counts[:4].tolist() == [3, 2, 1, 0]
    assert histogram.counts[255] == 1
    assert histogram.num_values == 7
    assert histogram.max_abs == 255.0
    np.testing.assert_array_equal(edges_of(histogram), np.arange(257.0))


def test_range_doubles_by_merging_pairs():
    histogram = histogram_of([0.5, 1.5, 2.5, 3.5, 255.0], num_bins=256)
    histogram.add(np.array([256.0], np.float32))  # not below 256: width 1 no longer covers it
    assert histogram.bin_width == 2.0
    assert histogram.counts[:2].tolist() == [2, 2]
    assert histogram.counts[127] == 1
    assert histogram.counts[128] == 1


@pytest.mark.parametrize(
    ("largest", "width"),
    [
        (1.0, 2.0**-7),
        (np.nextafter(np.float32(1), np.float32(0)), 2.0**-8),
        (2.0**-149, 2.0**-156),
        (3e38, 2.0**120),
    ],
)
def test_range_is_the_least_power_of_two_multiple_above_the_maximum(largest, width):
    assert histogram_of([largest], num_bins=256).bin_width == width


@pytest.mark.parametrize("num_bins", [256, 300, 1000, 4096])
def test_half_of_the_bins_lie_below_the_maximum(num_bins):
    for largest in np.random.default_rng(SEED).lognormal(0, 20, 200).astype(np.float32):
        histogram = histogram_of([largest], num_bins=num_bins)
        assert num_bins / 2 <= histogram.max_abs / histogram.bin_width < num_bins
        assert math.frexp(histogram.bin_width)[0] == 0.5  # a power of two


def test_only_zeros():
    histogram = histogram_of(np.zeros(5), np.zeros(3))
    assert (histogram.num_values, histogram.max_abs, histogram.counts[0]) == (8, 0.0, 8)
    assert np.all(np.diff(edges_of(histogram)) > 0)


def test_a_new_histogram_is_empty():
    assert (Histogram().num_values, Histogram().max_abs) == (0, 0.0)
    histogram = histogram_of(np.zeros(0))
    assert histogram.num_values == 0


# Second source: np.histogram


@pytest.mark.parametrize("num_bins", [256, 1000, 4096])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-3, 1.0, 1e30])
def test_counts_equal_numpy(num_bins, scale):
    values = (np.random.default_rng(SEED).standard_normal(50_000) * scale).astype(np.float32)
    histogram = histogram_of(*np.array_split(values, 9), num_bins=num_bins)
    expected, _ = np.histogram(np.abs(values).astype(np.float64), bins=edges_of(histogram))
    np.testing.assert_array_equal(histogram.counts, expected)


def test_counts_equal_numpy_over_sixty_orders_of_magnitude():
    values = wide_values(20_000)
    histogram = histogram_of(*np.array_split(values, 50))
    expected, _ = np.histogram(np.abs(values).astype(np.float64), bins=edges_of(histogram))
    np.testing.assert_array_equal(histogram.counts, expected)


# Order and batching


@pytest.mark.parametrize("num_bins", [256, 300, 4096])
@pytest.mark.parametrize("order", ["as is", "shuffled", "ascending", "descending"])
@pytest.mark.parametrize("num_batches", [1, 7, 2000])
def test_counts_do_not_depend_on_order_or_batching(num_bins, order, num_batches):
    values = wide_values(2000)
    ordered = {
        "as is": values,
        "shuffled": np.random.default_rng(SEED + 1).permutation(values),
        "ascending": values[np.argsort(np.abs(values))],
        "descending": values[np.argsort(-np.abs(values))],
    }[order]
    once = histogram_of(values, num_bins=num_bins)
    assert_same(histogram_of(*np.array_split(ordered, num_batches), num_bins=num_bins), once)


@pytest.mark.parametrize("first", [0.0, 1e-45, 1e-38, 1e-30, 1e-3, 1e30])
def test_a_first_batch_of_any_size_leaves_no_trace(first):
    later = np.random.default_rng(SEED).standard_normal(1000).astype(np.float32)
    head = np.full(10, first, np.float32)
    assert_same(histogram_of(head, later), histogram_of(later, head))


def test_float64_denormals_follow_the_same_rules():
    values = np.array([5e-324, 0.0, 1e-310, 1e-300, 1e300])
    forward, backward = Histogram(), Histogram()
    for value in values:
        forward.add(np.array([value]))
    backward.add(values[::-1])
    assert_same(forward, backward)
    tiny = Histogram()
    tiny.add(values[:1])
    assert (tiny.max_abs, tiny.counts[0]) == (5e-324, 1)


# A sample with the maximum of the full tensor


def test_announced_maximum_sets_range_and_max_abs():
    values = np.random.default_rng(SEED).standard_normal(10_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values[::7], max_abs=float(np.abs(values).max()))
    assert histogram.max_abs == float(np.abs(values).max())
    assert histogram.num_values == len(values[::7])
    assert histogram.bin_width == histogram_of(values).bin_width


def test_announced_maximum_below_the_values_is_refused():
    histogram = Histogram()
    with pytest.raises(ValueError, match=r"got 1\.0, expected at least"):
        histogram.add(np.array([2.0], np.float32), max_abs=1.0)
    assert histogram.num_values == 0


def test_observe_max_counts_nothing():
    histogram = histogram_of([1.0, 2.0])
    histogram.observe_max(1000.0)
    histogram.observe_max(3.0)
    assert (histogram.max_abs, histogram.num_values) == (1000.0, 2)
    with pytest.raises(ValueError, match="expected >= 0"):
        histogram.observe_max(-1.0)


# Bad values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_and_nothing_is_counted(bad):
    histogram = histogram_of([1.0])
    with pytest.raises(NonFiniteActivationError, match="got 2 NaN or Inf among 4 values"):
        histogram.add(np.array([1e6, bad, 3.0, bad], np.float32))
    assert_same(histogram, histogram_of([1.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_announced_maximum_that_is_not_finite_is_an_error(bad):
    histogram = Histogram()
    with pytest.raises(NonFiniteActivationError, match="got a maximum of"):
        histogram.add(np.array([1.0], np.float32), max_abs=bad)
    assert histogram.num_values == 0


def test_integers_are_refused():
    with pytest.raises(TypeError, match="got a int8 array, expected float16"):
        Histogram().add(np.ones(3, np.int8))


@pytest.mark.parametrize("num_bins", [0, 254, 257])
def test_number_of_bins_is_checked(num_bins):
    with pytest.raises(ValueError, match=f"num_bins: got {num_bins}, expected an even number of at least 256"):
        Histogram(num_bins)


# Arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_agree(dtype):
    values = np.random.default_rng(SEED).standard_normal(5000).astype(np.float16)
    histogram = Histogram()
    histogram.add(values.astype(dtype))
    assert_same(histogram, histogram_of(values))


def test_shape_and_strides_do_not_matter_and_the_input_is_unchanged():
    values = np.random.default_rng(SEED).standard_normal((4, 6, 10)).astype(np.float32)
    before = values.copy()
    expected = histogram_of(values.ravel())
    for view in (values, values.T, values[::-1, :, ::-1], np.asfortranarray(values)):
        assert_same(histogram_of(view), expected)
    np.testing.assert_array_equal(values, before)
    values.flags.writeable = False
    assert_same(histogram_of(values), expected)
    assert histogram_of(np.float32(3)[()]).num_values == 1


def test_counts_is_a_copy():
    histogram = histogram_of([1.0])
    histogram.counts[:] = 9
    assert histogram.num_values == 1
