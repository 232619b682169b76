"""Weights that make up for what a layer misreads: found where there is something to find, left out where not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from onnx import helper

from calibration.refinement.layer_reads import LayerReads
from calibration.refinement.layer_statistics import LayerStatistics, Sums, collect
from calibration.refinement.weight_compensation import ALIKE, RIDGES, compensation, error_change

SEED = 20261130
NODE = helper.make_node("MatMul", ["x", "w"], ["y"])


def statistics(read: np.ndarray, in_float: np.ndarray, weight: np.ndarray):
    """Return the statistics of a MatMul over images [n, positions, K]: what the quantized and the float layer reads."""
    arrays = (read.astype(np.float32), in_float.astype(np.float32))
    images = [tuple(partial(np.asarray, image) for image in pair) for pair in zip(*arrays, strict=True)]
    return collect(
        LayerReads(NODE, (), weight[np.newaxis].astype(np.float32), lambda: images, len(images)).missed_outputs()
    )


def noisy_layer(random: np.random.Generator, noise: float):
    """Return (weight, what the quantized layer reads, what the float layer reads); one channel of six is noisy."""
    weight = random.normal(size=(4, 6))
    true = random.normal(size=(16, 50, 6))
    read = true.copy()
    read[:, :, 2] += noise * random.normal(size=(16, 50))
    return weight, read, true


def test_a_channel_that_is_mostly_noise_counts_for_less() -> None:
    """Of a channel with noise of its own power, half the weight is best (Wiener): found to 10 %."""
    weight, read, in_float = noisy_layer(np.random.default_rng(SEED), noise=1.0)
    moved = compensation(statistics(read, in_float, weight))
    assert moved is not None
    assert_allclose((weight + moved[0])[:, 2], weight[:, 2] / 2, atol=0.1 * np.abs(weight[:, 2]).max())
    others = [0, 1, 3, 4, 5]
    assert np.abs(moved[0][:, others]).max() < 0.15


def test_without_an_error_nothing_is_moved() -> None:
    random = np.random.default_rng(SEED)
    weight, read = random.normal(size=(4, 6)), random.normal(size=(8, 20, 6))
    moved = compensation(statistics(read, read, weight))
    assert moved is None or np.abs(moved).max() < 1e-4


def test_errors_that_other_images_do_not_share_are_not_fitted() -> None:
    """40 channels, 2 images of 15 positions, errors that hang on nothing: a fit would take them for signal."""
    random = np.random.default_rng(SEED)
    weight, read = random.normal(size=(3, 40)), random.normal(size=(2, 15, 40))
    in_float = read + random.normal(size=(2, 15, 40))
    assert compensation(statistics(read, in_float, weight)) is None


@pytest.mark.parametrize(
    ("share", "is_fitted"), [(0.8 * ALIKE, False), (1.25 * ALIKE, True), (-0.5, False), (0.0, False)]
)
def test_halves_whose_residuals_are_not_alike_are_not_fitted(
    share: float, is_fitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second residual is `share` of the first and what is at right angles to it, by the size of what is read."""
    random = np.random.default_rng(SEED)
    sizes = random.uniform(0.1, 50, size=8)
    first, other = random.normal(size=(2, 1, 5, 8))
    other -= first * (first * other).sum() / (first**2).sum()
    other *= np.sqrt((first**2).sum() / (other**2).sum())
    second = share * first + np.sqrt(1 - share**2) * other
    halves = [Sums(np.diag(sizes)[np.newaxis], residual * np.sqrt(sizes)) for residual in (first, second)]
    fitted = []
    solve = np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda *arrays: fitted.append(arrays) or solve(*arrays))
    compensation(LayerStatistics((halves[0], halves[1]), np.zeros(1, np.float32)))
    assert bool(fitted) == is_fitted


def test_error_change_is_that_of_the_outputs() -> None:
    random = np.random.default_rng(SEED)
    weight, read, in_float = noisy_layer(random, noise=0.5)
    given, seen = in_float @ weight.T, statistics(read, in_float, weight)
    whole = Sums(seen.halves[0].hessian + seen.halves[1].hessian, seen.halves[0].residual + seen.halves[1].residual)
    change = 0.1 * random.normal(size=(1, 4, 6))
    before, after = (np.square(given - read @ (weight + each).T).sum(axis=(0, 1)) for each in (0, change[0]))
    assert_allclose(error_change(change, whole)[0], after - before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("positions", "least", "most"), [(2, 0.2, 1.0), (4000, 0.0, 0.02)])
def test_few_positions_shrink_the_hessian_towards_its_diagonal(positions: int, least: float, most: float) -> None:
    random = np.random.default_rng(SEED)
    read = random.normal(size=(6, positions, 12)) + 0.5 * random.normal(size=(6, positions, 1))
    seen = statistics(read, read, np.zeros((1, 12)))
    assert least <= seen.shrinkage[0] <= most
    shrunk, whole = seen.whole().hessian[0], sum(half.hessian[0] for half in seen.halves)
    assert_allclose(np.diag(shrunk), np.diag(whole))
    off = ~np.eye(12, dtype=bool)
    assert_allclose(shrunk[off], (1 - seen.shrinkage[0]) * whole[off], rtol=1e-4)


def test_each_output_gets_the_ridge_that_other_images_like_best() -> None:
    """Row 0 reads the noisy channel alone, row 1 all but it, the others a little: in float64, ridge by ridge."""
    random = np.random.default_rng(SEED)
    weight, read, in_float = noisy_layer(random, noise=0.5)
    weight[0] = [0, 0, 3, 0, 0, 0]
    weight[1, 2] = 0
    weight[2:] *= [[0.2], [1.0]]
    seen = statistics(read, in_float, weight)
    first, second = ((half.hessian[0].astype(float), half.residual[0].astype(float)) for half in seen.halves)
    best, expected, total = np.zeros(4), np.zeros((4, 6)), 0.0
    for ridge in RIDGES:
        fits = [
            residual @ np.linalg.inv(hessian + ridge * np.diag(np.diag(hessian) + 1e-3 * np.diag(hessian).mean()))
            for hessian, residual in (first, second)
        ]
        change = sum(
            ((fit @ hessian - 2 * residual) * fit).sum(axis=1)
            for fit, (hessian, residual) in zip(fits, (second, first), strict=True)
        )
        if change.sum() >= total:
            break
        total = change.sum()
        expected[change < best] = sum(fits)[change < best] / 2
        best = np.minimum(best, change)
    found = compensation(seen)
    assert found is not None
    assert_allclose(found[0], expected, atol=1e-4)
    assert np.abs(found[0, 0]).max() > 0.3
    assert np.abs(found[0, 1]).max() < 0.05
