"""Equalizing and aligning factors against values by hand, and what they promise: no range grows, nothing is clipped."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_allclose, assert_array_equal

from calibration.calibration_table import TensorRange
from calibration.channel_groups import ChannelGroup, find_channel_groups
from calibration.channel_statistics import ChannelStatistics
from calibration.equalize import (
    MAX_FACTOR,
    MIN_VALUES,
    REACH,
    aligning_factors,
    equalizing_factors,
    scale_channels,
)

SEED = 20261125
INT8 = TensorRange(amax=127.0, scale=1.0, max_abs=127.0)
"""Levels are the integers from -128 to 127."""


def group_of(*tensors: str, channels: int) -> ChannelGroup:
    return ChannelGroup(tensors, ("producer",), ("consumer",), channels)


def statistics_of(*max_abs: float) -> ChannelStatistics:
    return ChannelStatistics(np.array(max_abs), np.zeros((len(max_abs), 0), np.float32))


def known_by(values: np.ndarray) -> ChannelStatistics:
    """Statistics of a tensor that holds just `values` [C, n]."""
    return ChannelStatistics(np.abs(values).max(axis=1).astype(np.float64), values.astype(np.float32))


def test_equalizing_factors_by_hand() -> None:
    statistics = {"x": statistics_of(16.0, 4.0, 1.0, 0.0)}
    assert_allclose(equalizing_factors(group_of("x", channels=4), statistics), [1.0, 2.0, 4.0, 1.0])
    assert_allclose(equalizing_factors(group_of("x", channels=4), statistics, strength=1), [1.0, 4.0, 16.0, 1.0])
    assert_array_equal(equalizing_factors(group_of("x", channels=4), statistics, strength=0), np.ones(4))


def test_the_tensor_with_least_room_decides() -> None:
    statistics = {"x": statistics_of(16.0, 4.0, 1.0), "y": statistics_of(8.0, 8.0, 0.0)}
    group = group_of("x", "y", "not quantized", channels=3)
    assert_allclose(equalizing_factors(group, statistics, strength=1), [1.0, 1.0, 16.0])


def test_a_factor_is_never_larger_than_the_limit() -> None:
    statistics = {"x": statistics_of(1.0, 1e-9)}
    assert_array_equal(equalizing_factors(group_of("x", channels=2), statistics), [1.0, MAX_FACTOR])


def test_a_group_of_dead_tensors_stays_as_it_is() -> None:
    assert_array_equal(equalizing_factors(group_of("x", channels=2), {"x": statistics_of(0.0, 0.0)}), np.ones(2))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_no_tensors_range_grows_and_no_channel_shrinks(strength: float) -> None:
    random = np.random.default_rng(SEED)
    for _ in range(100):
        statistics = {name: statistics_of(*random.lognormal(0, 2, 6)) for name in "xyz"}
        factors = equalizing_factors(group_of("x", "y", "z", channels=6), statistics, strength=strength)
        assert (factors >= 1.0).all()
        for known in statistics.values():
            assert (known.max_abs * factors).max() <= known.max_abs.max() * (1 + 1e-12)


def test_statistics_scale_with_the_channels() -> None:
    scaled = known_by(np.float32([[1, -2], [3, 4]])).scaled(np.array([2.0, 0.5]))
    assert_array_equal(scaled.max_abs, [4.0, 2.0])
    assert_array_equal(scaled.values, np.float32([[2, -4], [1.5, 2]]))
    assert scaled.values.dtype == np.float32


def flat(value: float, *, most: float = 0.0, count: int = MIN_VALUES) -> np.ndarray:
    """A channel that is `value` everywhere but at two places, one of each half, where it is `most`."""
    values = np.full(count, value)
    values[[0, -1]] = most
    return values


def test_a_flat_channel_comes_to_lie_on_a_level() -> None:
    values = np.stack([flat(4.4), flat(-7.5), flat(3.0)])
    factors = aligning_factors(group_of("x", channels=3), {"x": known_by(values)}, {"x": INT8})
    assert np.abs(factors - 1).max() <= REACH
    after = np.abs(values * factors[:, np.newaxis] - np.rint(values * factors[:, np.newaxis]))[:, 1:-1]
    assert after[0].max() < 0.06, "4.4 is next to 4 or 5: candidates are 1.25 % of 4.4 apart"
    assert after[1].max() < 0.06
    assert factors[2] == 1.0, "a level already"


def test_unsigned_levels_count_from_the_zero_point() -> None:
    kept = TensorRange(amax=200.0, scale=1.0, max_abs=200.0, zero_point=55, dtype="uint8")
    values = np.stack([flat(150.0, most=199.0), flat(-50.5, most=-54.0), flat(-60.0)])
    factors = aligning_factors(group_of("x", channels=3), {"x": known_by(values)}, {"x": kept})
    assert factors[0] == 1.0, "exact already; INT8 levels would clip it"
    assert abs(values[1, 1] * factors[1] - np.rint(values[1, 1] * factors[1])) < 0.2
    assert values[2, 1] * factors[2] >= -55 - 0.5, "what the range clips comes back into it"


def test_no_channel_grows_into_the_end_of_the_range() -> None:
    """Level 4.4 at most positions would like to grow to 5; the one value at the end of the range forbids it."""
    crowded = known_by(flat(4.4, most=1.0)[np.newaxis])
    at_the_end = ChannelStatistics(np.array([127.0]), crowded.values)  # its largest value is not in the sample
    beyond = ChannelStatistics(np.array([300.0]), crowded.values)
    group = group_of("x", channels=1)
    assert aligning_factors(group, {"x": crowded}, {"x": INT8})[0] > 1.1
    for known in (at_the_end, beyond):
        assert aligning_factors(group, {"x": known}, {"x": INT8})[0] < 1.0


@pytest.mark.parametrize("zero_point", [0, 100, 200])
def test_nothing_gets_clipped_that_was_not(zero_point: int) -> None:
    kept = TensorRange(amax=1.0, scale=1 / 64, max_abs=1.0, zero_point=zero_point, dtype="uint8")
    low, high = -zero_point / 64, (255 - zero_point) / 64
    random = np.random.default_rng(SEED)
    values = random.uniform(min(low, -0.01), high, (64, MIN_VALUES)) * random.uniform(0.1, 1, (64, 1))
    known = known_by(values)
    factors = aligning_factors(group_of("x", channels=64), {"x": known}, {"x": kept})
    assert (factors != 1.0).any()
    grown = factors > 1.0
    assert (known.max_abs * factors <= max(high, -low) + 1e-6)[grown].all()


def test_no_channel_changes_without_proof_on_the_other_half() -> None:
    """Each half is flat at another value; what is good for the first half does harm to the second."""
    values = np.full((1, 2 * MIN_VALUES), 10.4)
    values[0, MIN_VALUES:] = 11.0
    assert_array_equal(aligning_factors(group_of("x", channels=1), {"x": known_by(values)}, {"x": INT8}), [1.0])


def test_alignment_lowers_the_error_on_values_that_it_was_not_chosen_on() -> None:
    random = np.random.default_rng(SEED)
    modes = random.uniform(2, 20, (200, 1))

    def draw() -> np.ndarray:
        return np.where(random.random((200, 512)) < 0.7, modes, random.gamma(2.0, 8.0, (200, 512)))

    factors = aligning_factors(group_of("x", channels=200), {"x": known_by(draw())}, {"x": INT8})
    fresh = draw().clip(0, 110)

    def error(scale: np.ndarray) -> float:
        return float(np.square(np.rint(fresh * scale) / scale - fresh).mean())

    assert error(factors[:, np.newaxis]) < 0.7 * error(np.ones((200, 1)))


def test_what_passes_the_proof_by_chance_does_little_harm() -> None:
    """Noise over the whole range has nothing to gain: growing is forbidden, shrinking loses levels."""
    random = np.random.default_rng(SEED)
    values = random.uniform(0, 127, (400, 512))
    values[:, :2] = 127.0
    factors = aligning_factors(group_of("x", channels=400), {"x": known_by(values)}, {"x": INT8})
    assert factors.max() <= 1.0
    assert np.mean(factors != 1.0) < 0.5
    fresh = random.uniform(0, 127, (400, 512))
    scaled = fresh * factors[:, np.newaxis]
    error = np.square((np.rint(scaled) - scaled) / factors[:, np.newaxis]).mean()
    assert error < 1.05 / 12, "of a step squared; 1 / 12 without alignment"


def test_a_channel_known_by_few_values_is_not_aligned() -> None:
    few = known_by(flat(4.4, count=MIN_VALUES - 1)[np.newaxis])
    assert_array_equal(aligning_factors(group_of("x", channels=1), {"x": few}, {"x": INT8}), [1.0])
    assert_array_equal(aligning_factors(group_of("x", channels=1), {}, {}), [1.0])


def test_a_weight_between_two_groups_is_rounded_once() -> None:
    build = GraphBuilder()
    build.node("Relu", "a.relu", build.conv("a", "input", 4))
    build.node("Relu", "b.relu", build.conv("b", "a.relu", 3))
    build.conv("c", "b.relu", 2)
    model = build.model("c")
    first, second = find_channel_groups(model)
    rows, columns = np.array([3.0, 0.7, 1.9]), np.array([1.1, 7.0, 0.3, 2.0])
    result = scale_channels(model, {first: columns, second: rows})
    assert result.num_changes == 2
    before, after = ({tensor.name: tensor for tensor in each.graph.initializer} for each in (model, result.model))
    weight = np.frombuffer(before["b.weight"].raw_data, np.float32).reshape(3, 4, 3, 3).astype(np.float64)
    expected = weight * (rows[:, np.newaxis] / columns)[:, :, np.newaxis, np.newaxis]
    assert_array_equal(
        np.frombuffer(after["b.weight"].raw_data, np.float32).reshape(3, 4, 3, 3), expected.astype(np.float32)
    )


def test_factors_of_one_change_nothing() -> None:
    build = GraphBuilder()
    build.gemm("out", build.node("Relu", "relu", build.conv("a", "input", 4)), 3, transB=1)
    model = build.model("out")
    groups = find_channel_groups(model)
    same = scale_channels(model, {group: np.ones(group.num_channels) for group in groups}).model
    assert same.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
