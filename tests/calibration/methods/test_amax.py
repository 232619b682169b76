from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.errors import EmptyHistogramError
from calibration.methods.amax import MIN_AMAX, entropy_amax, max_amax, mse_amax, percentile_amax
from calibration.methods.histogram import Histogram

SEED = 20260102
NUM_VALUES = 40_000

METHODS = {
    "max": max_amax,
    "percentile": lambda histogram: percentile_amax(histogram, 99.9),
    "entropy": entropy_amax,
    "mse": mse_amax,
}
every_method = pytest.mark.parametrize("amax_of", METHODS.values(), ids=METHODS.keys())


def histogram_of(values, num_bins=4096, max_abs=None):
    histogram = Histogram(num_bins)
    histogram.add(np.asarray(values, np.float32), max_abs=max_abs)
    return histogram


def sample(name):
    """float32 [NUM_VALUES] of a named distribution."""
    generator = np.random.default_rng(SEED)
    normal = generator.standard_normal(NUM_VALUES)
    values = {
        "normal": normal,
        "relu": np.maximum(normal - 0.5, 0),
        "laplace": generator.laplace(size=NUM_VALUES),
        "uniform": generator.uniform(-1, 1, NUM_VALUES),
        "heavy tail": generator.standard_t(3, NUM_VALUES),
        "one outlier": np.append(normal, 200.0),
        "sparse": np.where(generator.uniform(size=NUM_VALUES) < 0.999, 0, normal),
        "integers": np.rint(normal * 30),
    }[name]
    return values.astype(np.float32)


DISTRIBUTIONS = ["normal", "relu", "laplace", "uniform", "heavy tail", "one outlier", "sparse", "integers"]
every_distribution = pytest.mark.parametrize("name", DISTRIBUTIONS)


def quantize_dequantize(values, amax, qmin=-127):
    scale = amax / 127
    return np.clip(np.rint(values / scale), qmin, 127) * scale


def mean_squared_error(values, amax):
    values = values.astype(np.float64)
    return float(np.mean((values - quantize_dequantize(values, amax)) ** 2))


# max


def test_max_by_hand():
    assert max_amax(histogram_of([0.25, -3.125, 1.0])) == 3.125
    assert max_amax(histogram_of([0.25], max_abs=7.5)) == 7.5


# percentile


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [(50, 100.0), (25.25, 50.5), (0.5, 1.0), (0.25, 0.5), (99.5, 199.0), (99.99, 199.5), (100, 199.5)],
)
def test_percentile_by_hand(percentile, expected):
    # One value in each of the bins [0, 1), [1, 2), ... [199, 200): p percent of 200 values end at 2 p.
    # The last bin would end at 200, above the maximum of 199.5.
    histogram = histogram_of(np.arange(200) + 0.5, num_bins=256)
    assert histogram.bin_width == 1.0
    assert percentile_amax(histogram, percentile) == pytest.approx(expected, rel=1e-12)


@every_distribution
@pytest.mark.parametrize("percentile", [1.0, 50.0, 99.0, 99.9, 99.99, 99.999])
def test_percentile_is_within_one_bin_of_numpy(name, percentile):
    values = sample(name)
    histogram = histogram_of(values)
    exact = np.abs(values).astype(np.float64)  # of float32 NumPy 2.0 and 2.1 take a neighboring value
    expected = np.percentile(exact, percentile, method="inverted_cdf")
    assert abs(percentile_amax(histogram, percentile) - expected) <= histogram.bin_width


@pytest.mark.parametrize("percentile", [0, -1, 100.001, math.nan])
def test_percentile_is_checked(percentile):
    with pytest.raises(ValueError, match="expected 0 < percentile <= 100"):
        percentile_amax(histogram_of([1.0]), percentile)


def test_a_lower_percentile_clips_more():
    histogram = histogram_of(sample("laplace"))
    amaxes = [percentile_amax(histogram, percentile) for percentile in (50, 90, 99, 99.9, 99.99, 100)]
    assert amaxes == sorted(amaxes)
    assert len(set(amaxes)) == len(amaxes)


# entropy


def test_entropy_by_hand():
    # Four bins over [0, 4] hold 4, 4, 3, 1 once bin 0 (1000 zeros) takes the count of bin 1. With two levels:
    #   clip 2: P = 4 8       / 12, Q = 4 4       / 8  -> 1/3 ln 2/3 + 2/3 ln 4/3            = 0.0566
    #   clip 3: P = 4 4 4     / 12, Q = 4 4 3     / 11 -> 2/3 ln 11/12 + 1/3 ln 11/9         = 0.0089
    #   clip 4: P = 4 4 3 1   / 12, Q = 4 4 2 2   / 12 -> 3/12 ln 3/2 + 1/12 ln 1/2          = 0.0436
    histogram = histogram_of([0.0] * 1000 + [1.5] * 4 + [2.5] * 3 + [4.0])
    assert entropy_amax(histogram, num_bins=4, num_levels=2) == 3.0


def test_entropy_gives_equal_clips_to_the_larger():
    # 2, 2, 1, 1: all of 4 bins in 2 levels loses nothing (KL 0), as does no other clip.
    histogram = histogram_of([1.5] * 2 + [2.5, 4.0])
    assert entropy_amax(histogram, num_bins=4, num_levels=2) == 4.0
    # Nothing but the maximum: every smaller clip keeps no value at all.
    assert entropy_amax(histogram_of(np.full(100, 3.3))) == np.float32(3.3)


def slow_divergences(counts, num_levels, divergence):
    """KL for every clip, with plain loops and whole distributions (Migacz 2017, slides 38 to 40)."""
    result = []
    for clip in range(num_levels, len(counts) + 1):
        reference = [float(count) for count in counts[:clip]]
        reference[-1] += float(sum(counts[clip:]))
        quantized = [0.0] * clip
        for level in range(num_levels):
            group = [j for j in range(clip) if level <= j * num_levels / clip < level + 1]
            filled = [j for j in group if counts[j] > 0]
            for j in filled:
                quantized[j] = sum(float(counts[i]) for i in group) / len(filled)
        result.append(divergence(reference, quantized))
    return result


def plain_divergence(reference, quantized):
    total, kept = sum(reference), sum(quantized)
    divergence = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p > 0:
            divergence += math.inf if q == 0 else p / total * math.log(p / total / (q / kept))
    return divergence


def unit_bins(name, num_bins):
    """Integers 0 to num_bins, the largest once: rebinning to `num_bins` over [0, num_bins] changes no bin."""
    values = np.rint(np.abs(sample(name)) * 40)
    values = np.append(values[values < num_bins], num_bins)
    histogram = histogram_of(values, num_bins=2 * num_bins)
    assert histogram.bin_width == 1.0
    counts = histogram.counts[:num_bins]
    counts[-1] += 1  # the largest sits on the upper edge of [0, num_bins]
    counts[0] = counts[1]
    return histogram, counts


@pytest.mark.parametrize("num_levels", [16, 60, 64, 128])
@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "heavy tail", "one outlier", "sparse"])
def test_entropy_equals_plain_loops(name, num_levels):
    histogram, counts = unit_bins(name, 192)
    divergences = slow_divergences(counts, num_levels, plain_divergence)
    least = min(divergences)
    best = max(i for i, value in enumerate(divergences) if value <= least + 1e-10)
    assert entropy_amax(histogram, num_bins=192, num_levels=num_levels) == num_levels + best


@pytest.mark.parametrize("name", ["relu", "laplace", "heavy tail"])
def test_entropy_minimises_the_divergence_of_onnxruntime(name):
    # ONNX Runtime's KL, in float32 (hence the tolerance), over the distributions of the plain loops. It must
    # not see zeros, which ONNX Runtime smooths away before.
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")

    def divergence(reference, quantized):
        filled = np.array(reference) > 0
        p, q = np.array(reference)[filled], np.array(quantized)[filled]
        return float(calibrate.entropy(p, q)) if q.all() else math.inf

    histogram, counts = unit_bins(name, 256)
    divergences = slow_divergences(counts, 64, divergence)
    amax = entropy_amax(histogram, num_bins=256, num_levels=64)
    assert divergences[int(amax) - 64] <= min(divergences) + 1e-6


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tail"])
def test_entropy_is_near_the_threshold_of_onnxruntime(name):
    # ONNX Runtime 1.31 takes signed values (128 levels are 64 of |x|), smooths, truncates counts to integers,
    # and puts all bins left over into the last level, so its threshold moves in jumps. Tolerance: a third
    # of amax. Post-ReLU tensors are left out: it keeps the peak at zero.
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = sample(name)
    largest = np.abs(values).max()
    counts, edges = np.histogram(np.concatenate([values, -values]), 1025, range=(-largest, largest))
    collector = calibrate.HistogramCollector("entropy", True, 1025, 128, 99.99, "same")
    low, high = collector.get_entropy_threshold((counts, edges.astype(np.float32), -largest, largest, largest), 128)
    assert low == pytest.approx(-high, rel=1e-6)
    assert entropy_amax(histogram_of(values), num_bins=512, num_levels=64) == pytest.approx(high, rel=1 / 3)


def test_entropy_ignores_the_peak_at_zero():
    values = sample("normal")
    with_zeros = np.concatenate([values, np.zeros(20 * NUM_VALUES, np.float32)])
    assert entropy_amax(histogram_of(with_zeros)) == entropy_amax(histogram_of(values))


def test_entropy_of_nothing_but_zeros_in_the_sample_is_the_announced_maximum():
    assert entropy_amax(histogram_of(np.zeros(100), max_abs=2.5)) == 2.5


def test_entropy_leaves_the_histogram_alone():
    histogram = histogram_of(sample("relu"))
    before = histogram.counts
    entropy_amax(histogram)
    np.testing.assert_array_equal(histogram.counts, before)


@pytest.mark.parametrize(("num_bins", "num_levels"), [(2049, 128), (100, 128), (100, 1)])
def test_entropy_options_are_checked(num_bins, num_levels):
    with pytest.raises(ValueError, match="expected 2 <= num_levels <= num_bins <= 2048"):
        entropy_amax(histogram_of([1.0]), num_bins=num_bins, num_levels=num_levels)


# mse


def test_mse_of_one_value_is_that_value():
    assert mse_amax(histogram_of(np.full(1000, 0.7))) == np.float32(0.7)
    assert mse_amax(histogram_of([0.0] * 1000 + [0.7])) == np.float32(0.7)


def test_mse_of_a_uniform_tensor_by_hand():
    # Evenly spread |x| <= 1 has the least error where the last level's half step ends at 1: 127.5 steps.
    # Tolerance: the spacing of the search, 0.05 percent, and the step of the sample.
    assert mse_amax(histogram_of(np.linspace(-1, 1, 400_001))) == pytest.approx(127 / 127.5, rel=1e-3)


@every_distribution
def test_mse_finds_the_least_error_of_the_values_themselves(name):
    # Second source: 2000 clip values tried on the raw values. Tolerance: 0.5 percent of the least error; the
    # integers are met where a level meets each of them, which no histogram sees.
    values = sample(name)
    histogram = histogram_of(values)
    candidates = histogram.max_abs * np.geomspace(1 / 100, 1, 2000)
    least = min(mean_squared_error(values, amax) for amax in candidates)
    allowed = (histogram.bin_width**2 / 3) if name == "integers" else 0.0
    assert mean_squared_error(values, mse_amax(histogram)) <= 1.005 * least + allowed


@every_distribution
def test_mse_is_not_above_the_error_at_the_maximum(name):
    values = sample(name)
    histogram = histogram_of(values)
    # Tolerance: one part in 1000, histogram against values.
    assert mean_squared_error(values, mse_amax(histogram)) <= 1.001 * mean_squared_error(values, max_amax(histogram))


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy tail"])
def test_mse_is_not_above_the_error_of_torch(name):
    torch = pytest.importorskip("torch")
    from torch.ao.quantization.observer import HistogramObserver

    values = sample(name)
    observer = HistogramObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    observer(torch.from_numpy(values))
    scale = float(observer.calculate_qparams()[0])
    theirs = np.mean((values - np.clip(np.rint(values / scale), -128, 127) * scale) ** 2)
    assert mean_squared_error(values, mse_amax(histogram_of(values))) <= 1.001 * theirs


def test_mse_clips_one_value_forty_times_the_rest():
    # 4 million values of unit variance and one of 200: kept, the step is 1.6 and all others pay 1.6**2 / 12 =
    # 0.21; clipped at 5, that one value alone pays 195**2 / 4e6 = 0.0095. Tolerance: a tenth of that.
    values = np.append(np.tile(sample("normal"), 100), np.float32(200))
    amax = mse_amax(histogram_of(values))
    assert 4 < amax < 30
    assert mean_squared_error(values, amax) < 0.0105


# All of them


@every_method
@every_distribution
def test_amax_is_positive_and_not_above_the_maximum(amax_of, name):
    histogram = histogram_of(sample(name))
    amax = amax_of(histogram)
    assert isinstance(amax, float)
    assert 0 < amax <= histogram.max_abs


@every_method
@every_distribution
@pytest.mark.parametrize("exponent", [-60, -3, 1, 70])
def test_scaling_by_a_power_of_two_scales_amax_exactly(amax_of, name, exponent):
    values = sample(name)
    scaled = np.ldexp(values, exponent)
    assert amax_of(histogram_of(scaled)) == math.ldexp(amax_of(histogram_of(values)), exponent)


@every_method
def test_sign_and_order_do_not_matter(amax_of):
    values = sample("laplace")
    assert amax_of(histogram_of(-values[::-1])) == amax_of(histogram_of(values))


@every_method
def test_a_dead_tensor_gets_a_scale_that_float16_holds(amax_of):
    assert amax_of(histogram_of(np.zeros(100))) == MIN_AMAX
    assert amax_of(histogram_of(np.full(100, 1e-42))) == MIN_AMAX  # amax / 127 is no normal float32
    scale = np.float16(MIN_AMAX / 127)
    assert float(scale) == MIN_AMAX / 127
    assert scale > np.finfo(np.float16).tiny


@every_method
def test_a_tiny_tensor_that_float32_can_scale_keeps_its_own_amax(amax_of):
    values = sample("normal") * np.float32(1e-30)
    assert 1e-31 < amax_of(histogram_of(values)) < 1e-29


@every_method
def test_no_value_is_an_error(amax_of):
    with pytest.raises(EmptyHistogramError, match="without values"):
        amax_of(Histogram())
    announced = Histogram()
    announced.observe_max(1.0)
    with pytest.raises(EmptyHistogramError, match="without values"):
        amax_of(announced)


@every_method
def test_a_sample_with_the_exact_maximum_comes_near_the_full_tensor(amax_of):
    # A quarter of the values; tolerance 15 percent of amax, for the tail they miss.
    values = sample("normal")
    sampled = histogram_of(values[::4], max_abs=float(np.abs(values).max()))
    assert amax_of(sampled) == pytest.approx(amax_of(histogram_of(values)), rel=0.15)
