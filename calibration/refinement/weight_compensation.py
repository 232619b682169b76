"""Weights that make up for the error in what a layer reads: the target that rounding then aims at.

A quantized layer reads x = x_float + error. The weights that answer this best are not the float ones: channels that
are mostly noise should count for less, and what the layers before lost in one channel can be taken from others.

    minimize over D:   sum |y - b - (W + D) x|^2 + a sum_j H_jj D_j^2      ->      D (H + a diag(H)) = M

with H and M of `layer_statistics`. Fitted on few images this would fit their noise, so a is chosen by the error on the
images that did not take part (two halves, each judging the other), and D is left out where no a lowers that.

Source: ridge regression with two-fold cross-validation; targets from the float model's outputs rather than from
W x as in Li et al. 2025, "GPTAQ", arXiv:2504.02692.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.refinement.layer_statistics import LayerStatistics

RIDGES = (0.01, 0.1, 1.0)
"""Values of a that are tried; at 10 what is left of D lies within rounding."""

Array = NDArray[np.floating]


def compensation(statistics: LayerStatistics) -> Array | None:
    """Return D, float32 [groups, O, K]; None where none lowers the error on images that did not take part.

    Args:
        statistics: Of the layer, with residuals.
    """
    first, second = statistics.hessians
    missing, others = statistics.residuals
    if not np.einsum("gkk->g", first).any() or not np.einsum("gkk->g", second).any():
        return None
    change = [
        error_change(_solve(first, missing, ridge), second, others).sum()
        + error_change(_solve(second, others, ridge), first, missing).sum()
        for ridge in RIDGES
    ]
    best = int(np.argmin(change))
    if not change[best] < 0:
        return None
    return _solve(statistics.hessian, statistics.residual, RIDGES[best])


def error_change(change: Array, hessian: Array, residual: Array) -> NDArray[np.float64]:
    """Return by how much the squared error of each row's output grows when `change` is added to it, [groups, O].

    Args:
        change: Of the weights, [groups, O, K].
        hessian: H, [groups, K, K].
        residual: M, [groups, O, K].
    """
    inner = np.matmul(change, hessian) - 2 * residual
    grown: NDArray[np.float64] = np.einsum("gok,gok->go", inner, change, dtype=np.float64)
    return grown


def _solve(hessian: Array, residual: Array, ridge: float) -> Array:
    """Return D of one a."""
    diagonal = np.einsum("gkk->gk", hessian)
    mean = diagonal.mean(axis=1, keepdims=True)
    damped = hessian.copy()
    places = np.arange(hessian.shape[1])
    damped[:, places, places] += ridge * (diagonal + 1e-3 * mean) + np.where(mean == 0, 1.0, 0.0)
    solution: Array = np.linalg.solve(damped, residual.transpose(0, 2, 1)).transpose(0, 2, 1)
    return solution
