"""Weights of any size, reads of any size: nothing overflows into the levels or onto the terminal."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import helper
from threadpoolctl import threadpool_limits

from calibration.refinement import round_layer as round_layer_module
from calibration.refinement.coordinate_descent import nearest_levels
from calibration.refinement.round_layer import FEW, round_layer
from calibration.refinement.workers import workers

GEMM = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)


@pytest.mark.parametrize(
    ("of_reads", "of_weights"), [(1e30, 1.0), (1e18, 1.0), (1.0, 1e20), (1e12, 1e20), (1e-22, 1.0), (1e-40, 1.0)]
)
def test_extreme_scales(of_reads, of_weights):
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(5, 24)) * of_weights).astype(np.float32)
    scale = (np.abs(weight).max(axis=1) / 127)[np.newaxis]
    floats = (rng.normal(size=(10, 3, 24)) * of_reads).astype(np.float32)
    read = floats + (rng.normal(size=floats.shape) * of_reads / 50).astype(np.float32)
    reads = [(lambda one=one: one, lambda other=other: other) for one, other in zip(read, floats, strict=True)]
    with warnings.catch_warnings(), threadpool_limits(2, user_api="blas"), workers() as run:
        warnings.simplefilter("error")
        levels = round_layer(GEMM, weight, scale, lambda: reads, num_images=10, run=run)
    nearest = nearest_levels(weight[np.newaxis], scale)
    assert np.abs(levels - nearest).max() <= 3

    def error(found):
        lost = read.astype(np.float64) @ (found[0] * scale[0][:, np.newaxis].astype(np.float64)).T
        return np.square(lost - floats.astype(np.float64) @ weight.T.astype(np.float64)).sum()

    assert error(levels) <= error(nearest)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20])
def test_levels_do_not_depend_on_the_unit(factor):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(4, 16)).astype(np.float32)
    scale = (np.abs(weight).max(axis=1) / 127)[np.newaxis]
    floats = rng.normal(size=(12, 2, 16)).astype(np.float32)

    def levels(unit):
        reads = [(lambda one=one: one, lambda one=one: one) for one in floats * np.float32(unit)]
        return round_layer(GEMM, weight, scale, lambda: reads, num_images=12)

    np.testing.assert_array_equal(levels(factor), levels(1.0))


@pytest.mark.parametrize("is_fitted", [True, False])
def test_a_few_outputs_tell_whether_a_layer_is_fitted(monkeypatch, is_fitted):
    """Its levels are those of a layer that is asked in full. It reads too little everywhere, or misses mere chance."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(3 * FEW, 40)).astype(np.float32)
    scale = (np.abs(weight).max(axis=1) / 7)[np.newaxis]
    read = rng.normal(size=(12, 20, 40)).astype(np.float32)
    floats = read + (read / 2 if is_fitted else rng.normal(size=read.shape).astype(np.float32) / 5)
    reads = [(lambda one=one: one, lambda other=other: other) for one, other in zip(read, floats, strict=True)]
    fitted = []
    compensation = round_layer_module.compensation
    monkeypatch.setattr(
        round_layer_module,
        "compensation",
        lambda *args: fitted.append(compensation(*args) is not None) or compensation(*args),
    )

    def levels(seldom):
        monkeypatch.setattr(round_layer_module, "SELDOM_FITTED", seldom)
        return round_layer(GEMM, weight, scale, lambda: reads, num_images=12)

    in_full = levels(40)
    assert fitted == [is_fitted]
    assert_array_equal(levels(39), in_full)
    assert fitted == ([True, True] if is_fitted else [False])
