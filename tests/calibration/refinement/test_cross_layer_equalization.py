"""Equalizing factors against values by hand, and what they promise: no range grows, no channel shrinks."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_allclose, assert_array_equal

from calibration.refinement.channel_groups import ChannelGroup, find_channel_groups
from calibration.refinement.cross_layer_equalization import (
    MAX_FACTOR,
    MAX_SUM,
    equalizing_factors,
    largest_sums,
    scale_channels,
)
from runtimes.ort.adapter import OrtRuntime

SEED = 20261125


def group_of(*tensors: str, channels: int) -> ChannelGroup:
    return ChannelGroup(tensors, ("producer",), ("consumer",), channels)


def maxima(*values: float) -> np.ndarray:
    return np.array(values)


def test_equalizing_factors_by_hand() -> None:
    largest = {"x": maxima(16.0, 4.0, 1.0, 0.0)}
    assert_allclose(equalizing_factors(group_of("x", channels=4), largest), [1.0, 2.0, 4.0, 1.0])
    assert_allclose(equalizing_factors(group_of("x", channels=4), largest, strength=1), [1.0, 4.0, 16.0, 1.0])
    assert_array_equal(equalizing_factors(group_of("x", channels=4), largest, strength=0), np.ones(4))


def test_the_tensor_with_least_room_decides() -> None:
    largest = {"x": maxima(16.0, 4.0, 1.0), "y": maxima(8.0, 8.0, 0.0)}
    group = group_of("x", "y", "not quantized", channels=3)
    assert_allclose(equalizing_factors(group, largest, strength=1), [1.0, 1.0, 16.0])


def test_a_factor_is_never_larger_than_the_limit() -> None:
    largest = {"x": maxima(1.0, 1e-9)}
    assert_array_equal(equalizing_factors(group_of("x", channels=2), largest), [1.0, MAX_FACTOR])


def test_a_group_of_dead_tensors_stays_as_it_is() -> None:
    assert_array_equal(equalizing_factors(group_of("x", channels=2), {"x": maxima(0.0, 0.0)}), np.ones(2))


def test_no_layer_is_scaled_past_what_fp16_holds() -> None:
    largest = {"x": maxima(16.0, 1.0, 1.0, 1.0)}
    sums = {"producer": maxima(MAX_SUM * 2, MAX_SUM / 2, MAX_SUM * 2, 0.0), "of another group": maxima(1e9)}
    factors = equalizing_factors(group_of("x", channels=4), largest, sums=sums)
    assert_allclose(factors, [1.0, 2.0, 1.0, 4.0])  # it is never made smaller, even where it is too large already


def test_largest_sums_are_met_by_the_worst_picture_and_never_passed() -> None:
    build = GraphBuilder(channels=4)
    weight = build.constant("a.weight", build.random.normal(0, 1, (6, 2, 3, 3)).astype(np.float32))
    build.node("Conv", "a", "input", weight, build.constant("a.bias", np.ones(6, np.float32)), group=2)
    build.node("Relu", "a.relu", "a")
    build.channels["a.relu"] = 6
    build.gemm("b", "a.relu", 5)
    build.node("Relu", "b.relu", "b")
    rows = build.constant("c.weight", build.random.normal(0, 1, (3, 5)).astype(np.float32))
    model = build.model(build.node("Gemm", "c", "b.relu", rows, transB=1), "a", "b")
    ends = ("a.relu", "b.relu")
    inner = [group_of(*ends, channels=6), ChannelGroup(("b.relu",), ("a", "b"), ("c",), 5)]
    peaks = {"input": maxima(2.0, 0.5, 3.0, 1.0), "b.flat": maxima(*np.arange(6.0))}
    sums = largest_sums(model, inner, peaks)
    assert sorted(sums) == ["a", "b"]
    taps = np.frombuffer(build.initializers["a.weight"].raw_data, np.float32).reshape(2, 3, 2, 3, 3)
    worst = np.sign(taps[1, 2]) * np.array([3.0, 1.0])[:, np.newaxis, np.newaxis]  # what output 5 reads of group 1
    image = np.zeros((1, 4, 8, 8), np.float32)
    image[0, 2:, :3, :3] = worst
    with OrtRuntime(model) as runtime:
        assert_allclose(runtime.run({"input": image})["a"][0, 5, 0, 0], sums["a"][5], rtol=1e-5)
    gemm = np.frombuffer(build.initializers["b.weight"].raw_data, np.float32).reshape(6, 5)
    bias = np.frombuffer(build.initializers["b.bias"].raw_data, np.float32)
    assert_allclose(sums["b"], np.abs(gemm).T @ np.arange(6.0) + np.abs(bias), rtol=1e-6)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_no_tensors_range_grows_and_no_channel_shrinks(strength: float) -> None:
    random = np.random.default_rng(SEED)
    for _ in range(100):
        largest = {name: maxima(*random.lognormal(0, 2, 6)) for name in "xyz"}
        factors = equalizing_factors(group_of("x", "y", "z", channels=6), largest, strength=strength)
        assert (factors >= 1.0).all()
        for known in largest.values():
            assert (known * factors).max() <= known.max() * (1 + 1e-12)


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
