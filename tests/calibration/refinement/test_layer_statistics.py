"""A layer's sums, against their definition in float64, and what taking them from the mean is good for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from onnx import helper

from calibration.refinement.layer_reads import LayerReads
from calibration.refinement.layer_statistics import STACK, collect
from calibration.refinement.round_layer import round_layer

SEED = 20261129
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def pairs(read: np.ndarray, in_float: np.ndarray):
    """Return of each image what gives the input of the quantized layer, and that of the float layer."""
    return [tuple(partial(np.asarray, image) for image in pair) for pair in zip(read, in_float, strict=True)]


def centers_of(read: np.ndarray, *, is_centered: bool) -> np.ndarray | None:
    return read.mean(axis=(0, 1)).astype(np.float32)[np.newaxis] if is_centered else None


@pytest.mark.parametrize("is_centered", [False, True])
@pytest.mark.parametrize("missed", ["inputs", "outputs", "nothing, of a part"])
@pytest.mark.parametrize("outputs", [3, 20])
@pytest.mark.parametrize(("images", "positions"), [(6, 50), (6, 3), (2 * STACK // 4 + 3, 4)])
def test_the_sums_are_what_their_definition_says(images, positions, outputs, missed, is_centered) -> None:
    """Few outputs and many, few positions and many, more rows than are multiplied at once; a part of the columns."""
    random = np.random.default_rng(SEED)
    read = random.normal(2.0, 1.0, (images, positions, 12)).astype(np.float32)
    in_float = read + random.normal(0.1, 0.2, read.shape).astype(np.float32)
    weight = random.normal(size=(1, outputs, 12)).astype(np.float32)
    center = centers_of(read, is_centered=is_centered)
    layer = LayerReads(MATMUL, (), weight, lambda: pairs(read, in_float), images, center)
    part = slice(None)
    if missed == "inputs":
        seen = collect(layer.missed_inputs(), weight=weight, is_centered=is_centered)
    elif missed == "outputs":
        seen = collect(layer.missed_outputs(), is_centered=is_centered)
    else:
        part = slice(4, 9)
        seen = collect(layer.inputs(part))
    x = read.astype(np.float64) - (0 if center is None else center[0])
    e = (in_float - read).astype(np.float64) @ weight[0].T
    if is_centered:
        e -= e.mean(axis=(0, 1))
    if part != slice(None):
        x, e = x[..., part], e[..., :0]
    for place, half in enumerate(seen.halves):
        of_half = slice(place, None, 2)
        hessian = np.einsum("npk,npl->kl", x[of_half], x[of_half])
        residual = np.einsum("npo,npk->ok", e[of_half], x[of_half])
        assert_allclose(half.hessian[0], hessian, rtol=1e-4, atol=1e-4 * np.abs(hessian).max())
        assert_allclose(half.residual[0], residual, rtol=1e-4, atol=2e-4 * np.abs(residual).max(initial=0.0))
    each = np.einsum("npk,npl->nkl", x, x)[:, ~np.eye(x.shape[-1], dtype=bool)]
    mean = each.mean(axis=0)
    shrinkage = np.square(each - mean).sum() / (images * (images - 1)) / np.square(mean).sum()
    assert_allclose(seen.shrinkage[0], min(shrinkage, 1.0), rtol=2e-3)


def test_groups_have_sums_of_their_own() -> None:
    """A depthwise convolution: each channel's window, less its own mean."""
    random = np.random.default_rng(SEED)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=2, kernel_shape=[2, 2])
    read = random.normal(size=(4, 2, 3, 3)).astype(np.float32)
    in_float = read + random.normal(0.3, 0.1, read.shape).astype(np.float32)
    weight = random.normal(size=(2, 1, 4)).astype(np.float32)
    windows = [
        np.lib.stride_tricks.sliding_window_view(each, (2, 2), axis=(2, 3)).reshape(4, 2, 4, 4)
        for each in (read, in_float)
    ]
    center = windows[0].mean(axis=(0, 2))
    layer = LayerReads(conv, (2, 2), weight, lambda: pairs(read, in_float), 4, center)
    seen = collect(layer.missed_inputs(), weight=weight, is_centered=True)
    x = windows[0] - center[:, np.newaxis]
    e = np.einsum("ngpk,gok->ngpo", windows[1] - windows[0], weight)
    e -= e.mean(axis=(0, 2), keepdims=True)
    assert_allclose(sum(half.hessian for half in seen.halves), np.einsum("ngpk,ngpl->gkl", x, x), atol=1e-4)
    assert_allclose(sum(half.residual for half in seen.halves), np.einsum("ngpo,ngpk->gok", e, x), atol=1e-4)


def test_a_steady_level_costs_no_levels_where_a_bias_takes_it() -> None:
    """Inputs around a large mean: kept by the levels, it binds them; left to the bias, they follow what varies."""
    random = np.random.default_rng(SEED)
    weight = random.normal(size=(16, 24)).astype(np.float32)
    read = (5 + random.normal(size=(16, 60, 6)) @ random.normal(size=(6, 24))).astype(np.float32)
    scale = (np.abs(weight).max(axis=1) / 7)[np.newaxis]

    def varying_error(center: np.ndarray | None) -> float:
        reads = partial(pairs, read, read)
        levels = round_layer(MATMUL, weight.T, scale, reads, num_images=len(read), center=center)
        error = read @ (levels[0] * scale[0][:, np.newaxis] - weight).T
        return float(np.square(error - error.mean(axis=(0, 1))).sum())

    assert varying_error(centers_of(read, is_centered=True)) < 0.8 * varying_error(None)
