"""Rounding by coordinate descent, against all neighbours enumerated, and on filters that nearly cancel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibration.refinement.coordinate_descent import BLOCK, column_parts, nearest_levels, round_by_descent

SEED = 20261129


def error(levels: np.ndarray, weight: np.ndarray, scale: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return J of every row, [G, O]."""
    missing = levels * scale[..., np.newaxis].astype(np.float64) - weight
    return np.einsum("gok,gkl,gol->go", missing, hessian, missing)


def depthwise(random: np.random.Generator, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return filters of 3 x 3, their steps, and Hessians of a smooth picture that differs from channel to channel."""
    weight = random.normal(size=(channels, 1, 9)).astype(np.float32)
    scale = (np.abs(weight).max(axis=2) / 127 * random.uniform(8, 16, (channels, 1))).astype(np.float32)  # few levels
    rows = random.normal(size=(channels, 200, 9)) * 0.3 + random.normal(size=(channels, 200, 1)) + 1
    return weight, scale, np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float32)


def test_depthwise_filters_against_all_neighbours_enumerated() -> None:
    """Of all 3^9 choices within a level of the nearest the search finds one near the best, and far from the nearest."""
    weight, scale, hessian = depthwise(np.random.default_rng(SEED), 12)
    nearest = nearest_levels(weight, scale)
    found = error(round_by_descent(weight, scale, hessian), weight, scale, hessian)
    moves = np.array(list(itertools.product((-1, 0, 1), repeat=9)))
    best = np.array(
        [
            error((nearest[each] + moves)[np.newaxis], weight[each], scale[each], hessian[each][np.newaxis]).min()
            for each in range(len(weight))
        ]
    )[:, np.newaxis]
    before = error(nearest, weight, scale, hessian)
    assert (found <= before * (1 + 1e-6)).all()
    assert (best <= found * (1 + 1e-4)).all()
    assert found.sum() < 0.5 * before.sum()
    assert np.median(found / best) < 1.6


def test_two_weights_by_hand() -> None:
    """Both are 0.4 steps; what they read is always equal, so their sum of 0.8 should be 1 and not 0."""
    weight, scale = np.float32([[[0.4, 0.4]]]), np.ones((1, 1), np.float32)
    assert_array_equal(nearest_levels(weight, scale), [[[0, 0]]])
    assert_array_equal(round_by_descent(weight, scale, np.ones((1, 2, 2), np.float32)), [[[1, 0]]])
    assert_array_equal(round_by_descent(weight, scale, np.eye(2, dtype=np.float32)[np.newaxis]), [[[0, 0]]])


def test_a_difference_filter_that_reads_a_large_level_keeps_its_sum() -> None:
    """Weights up to 8 whose sum is nearly 0, reading a level of 5 with little on it: the sum times 5 is what counts."""
    random = np.random.default_rng(SEED)
    weight = random.normal(size=(40, 1, 9)) * 3
    weight -= weight.mean(axis=2, keepdims=True)
    weight[:, 0, 4] += 8
    weight[:, 0, 0] -= 8.015
    weight = weight.astype(np.float32)
    scale = (np.abs(weight).max(axis=2) / 127).astype(np.float32)
    read = 5 + 0.02 * random.normal(size=(500, 9)) + 0.5 * random.normal(size=(500, 1))
    hessian = np.repeat((read.T @ read)[np.newaxis], 40, axis=0).astype(np.float32)
    rounded = round_by_descent(weight, scale, hessian)
    outputs = [
        np.matmul(levels * scale[:, :, np.newaxis] - weight, read.T)
        for levels in (nearest_levels(weight, scale), rounded)
    ]
    nearest_power, rounded_power = (float(np.square(each).mean()) for each in outputs)
    assert 10 * np.log10(nearest_power / rounded_power) > 10, "decibels"


@pytest.mark.parametrize("columns", [3, BLOCK + 5, 3 * BLOCK])
def test_no_row_is_worse_than_the_nearest_and_blocks_change_nothing(columns: int, monkeypatch) -> None:
    random = np.random.default_rng(SEED)
    weight = random.normal(size=(2, 6, columns))
    scale = np.abs(weight).max(axis=2) / 30
    rows = random.normal(size=(2, 4 * columns, columns)) + 2 * random.normal(size=(2, 4 * columns, 1))
    hessian = np.matmul(rows.transpose(0, 2, 1), rows)
    levels = round_by_descent(weight, scale, hessian)
    nearest = nearest_levels(weight, scale)
    assert np.abs(levels - nearest).max() == 1
    assert (error(levels, weight, scale, hessian) <= error(nearest, weight, scale, hessian)).all()
    monkeypatch.setattr("calibration.refinement.coordinate_descent.BLOCK", 10_000)
    assert np.mean(round_by_descent(weight, scale, hessian) == levels) > 0.999, "but for ties in the last bits"


def test_levels_end_at_127_and_what_is_never_read_takes_the_nearest() -> None:
    weight = np.float64([[[127.4, 126.6, 0.4, -127.4]]])
    hessian = np.ones((1, 4, 4))
    hessian[:, 2], hessian[:, :, 2] = 0, 0
    levels = round_by_descent(weight, np.ones((1, 1)), hessian)
    assert np.abs(levels.astype(int)).max() == 127
    assert levels[0, 0, 2] == 0


@pytest.mark.parametrize(("columns", "limit", "count"), [(9, 9, 1), (10, 9, 2), (25088, 2304, 11)])
def test_parts_cover_all_columns_once(columns: int, limit: int, count: int) -> None:
    parts = column_parts(columns, limit)
    assert len(parts) == count
    assert [place for part in parts for place in range(columns)[part]] == list(range(columns))
    assert max(part.stop - part.start for part in parts) <= limit
