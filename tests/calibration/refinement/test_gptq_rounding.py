"""Second-order rounding: nearest rounding where there is nothing to win, close to the best levels where there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibration.refinement.gptq_rounding import BLOCK, MAX_COLUMNS, column_parts, round_by_hessian

SEED = 20261130


def nearest(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scale[:, np.newaxis]), -127, 127)


def loss(weight: np.ndarray, scale: np.ndarray, levels: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return (w - q) H (w - q)^T of every row."""
    error = weight - levels * scale[:, np.newaxis]
    return np.einsum("oj,jk,ok->o", error, hessian, error)


def correlated(random: np.random.Generator, columns: int, rows: int = 400) -> np.ndarray:
    """Return x x^T of inputs like those of a layer: few directions hold most of their power, and they are positive."""
    mixed = random.normal(size=(rows, max(2, columns // 3))) @ random.normal(size=(max(2, columns // 3), columns))
    inputs = np.maximum(mixed + 0.3 * random.normal(size=(rows, columns)) + 0.5, 0)
    return inputs.T @ inputs


def problem(random: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    weight = random.normal(0, 0.1, (rows, columns))
    return weight, (np.abs(weight).max(axis=1) / 127).astype(np.float32)


@pytest.mark.parametrize("hessian", [np.eye(50), np.diag(np.arange(1.0, 51.0)), np.zeros((50, 50))])
def test_inputs_that_are_not_correlated_give_nearest_rounding(hessian: np.ndarray) -> None:
    weight, scale = problem(np.random.default_rng(SEED), 7, 50)
    levels = round_by_hessian(weight, scale, hessian)
    assert levels.dtype == np.int8
    assert_array_equal(levels, nearest(weight, scale))


def test_columns_that_are_never_read_are_rounded_to_the_nearest() -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 20, 12)
    hessian = correlated(random, 12)
    dead = [0, 5, 11]
    hessian[dead] = hessian[:, dead] = 0
    levels = round_by_hessian(weight, scale, hessian)
    assert_array_equal(levels[:, dead], nearest(weight, scale)[:, dead])
    alive = [column for column in range(12) if column not in dead]
    assert (levels[:, alive] != nearest(weight, scale)[:, alive]).any()


def test_beside_the_best_of_all_levels_around() -> None:
    """All combinations of rounding five weights up or down: the sum of the losses lies near the least one."""
    random = np.random.default_rng(SEED)
    ours, plain, best = 0.0, 0.0, 0.0
    for _ in range(40):
        hessian = correlated(random, 5)
        weight = random.uniform(-1, 1, (3, 5))
        scale = np.full(3, 0.25, np.float32)
        levels = round_by_hessian(weight, scale, hessian)
        floor = np.floor(weight / scale[:, np.newaxis])
        choices = [floor + np.array(up) for up in itertools.product((0, 1), repeat=5)]
        ours += loss(weight, scale, levels, hessian).sum()
        plain += loss(weight, scale, nearest(weight, scale), hessian).sum()
        best += np.min([loss(weight, scale, choice, hessian) for choice in choices], axis=0).sum()
    print(f"loss beside nearest rounding: ours {ours / plain:.2f}, best {best / plain:.2f}")
    assert best <= plain
    assert ours < 0.6 * plain
    assert ours < 1.2 * best


@pytest.mark.parametrize("columns", [9, 64, BLOCK + 1, 2 * BLOCK + 30])
def test_less_loss_than_nearest_rounding_also_across_blocks(columns: int) -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 16, columns)
    hessian = correlated(random, columns)
    levels = round_by_hessian(weight, scale, hessian)
    assert np.abs(levels.astype(int)).max() <= 127
    ours, plain = (loss(weight, scale, each, hessian) for each in (levels, nearest(weight, scale)))
    assert ours.sum() < 0.6 * plain.sum()
    assert np.mean(ours <= plain) > 0.8, "column by column is not the best of all: a row may lose"


def test_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 16, 300)
    hessian = correlated(random, 300)
    whole = round_by_hessian(weight, scale, hessian)
    monkeypatch.setattr("calibration.refinement.gptq_rounding.BLOCK", 1000)
    assert np.mean(round_by_hessian(weight, scale, hessian) == whole) > 0.999, "but for ties in float64's last bits"


@pytest.mark.parametrize(("columns", "count"), [(1, 1), (MAX_COLUMNS, 1), (MAX_COLUMNS + 1, 2), (25088, 3)])
def test_parts_cover_all_columns_once(columns: int, count: int) -> None:
    parts = column_parts(columns)
    sizes = [part.stop - part.start for part in parts]
    assert (len(parts), sum(sizes)) == (count, columns)
    assert max(sizes) <= MAX_COLUMNS
    assert max(sizes) - min(sizes) <= 1
    assert [place for part in parts for place in range(columns)[part]] == list(range(columns))


def gptq(weight: np.ndarray, scale: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """GPTQ as in its paper's algorithm 1, one column at a time, columns by falling diagonal."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    rest, levels = weight[:, order].copy(), np.empty(weight.shape)
    for column in range(len(order)):
        levels[:, column] = np.clip(np.rint(rest[:, column] / scale), -127, 127)
        error = (rest[:, column] - levels[:, column] * scale) / upper[column, column]
        rest[:, column:] -= np.outer(error, upper[column, column:])
    result = np.empty(weight.shape)
    result[:, order] = levels
    return result


@pytest.mark.parametrize("columns", [1, 30, 200])
def test_the_levels_are_those_of_gptq(columns: int) -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 32, columns)
    hessian = correlated(random, columns, rows=600)
    agreement = np.mean(round_by_hessian(weight, scale, hessian) == gptq(weight, scale.astype(np.float64), hessian))
    assert agreement > 0.999, "but for ties in float64's last bits"


def test_parts_have_less_loss_than_nearest_rounding_and_more_than_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 16, 200)
    hessian = correlated(random, 200)
    monkeypatch.setattr("calibration.refinement.gptq_rounding.MAX_COLUMNS", 50)
    parts = [round_by_hessian(weight[:, part], scale, hessian[part, part]) for part in column_parts(200)]
    whole = round_by_hessian(weight, scale, hessian)
    assert len(parts) == 4
    losses = [
        loss(weight, scale, levels, hessian).sum()
        for levels in (whole, np.concatenate(parts, axis=1), nearest(weight, scale))
    ]
    assert losses[0] < losses[1] < 0.8 * losses[2]


def test_a_row_of_zeros_stays_zero() -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 3, 8)
    weight[1], scale[1] = 0.0, 1.0
    assert_array_equal(round_by_hessian(weight, scale, correlated(random, 8))[1], np.zeros(8))


def test_more_columns_than_rows_of_input() -> None:
    """A singular Hessian: damping makes it definite."""
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 10, 60)
    inputs = random.normal(size=(3, 60))
    levels = round_by_hessian(weight, scale, inputs.T @ inputs)
    ours, plain = (loss(weight, scale, each, inputs.T @ inputs) for each in (levels, nearest(weight, scale)))
    assert ours.sum() < 0.2 * plain.sum()


def test_equal_inputs_give_equal_levels_and_stay_as_they_are() -> None:
    random = np.random.default_rng(SEED)
    weight, scale = problem(random, 16, 200)
    hessian = correlated(random, 200)
    arguments = weight.copy(), scale.copy(), hessian.copy()
    first = round_by_hessian(*arguments)
    assert_array_equal(first, round_by_hessian(*arguments))
    for given, kept in zip(arguments, (weight, scale, hessian), strict=True):
        assert_array_equal(given, kept)
