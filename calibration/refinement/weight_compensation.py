"""Weights that make up for the error in what a layer reads: the target that rounding then aims at.

A quantized layer reads x = x_float + error. The weights that answer this best are not the float ones: channels that
are mostly noise should count for less, and what the layers before lost in one channel can be taken from others.

    minimize over D:   sum |y - b - (W + D) x|^2 + a sum_j H_jj D_j^2      ->      D (H + a diag(H)) = M

with H and M of `layer_statistics`. Fitted on few images this would fit their noise, so the error on the images that did
not take part decides (two halves, each judging the other): of all outputs together, how far a goes down; of each, which
a is the best, or that none is better than none. Halves whose M have hardly anything in common are not fitted at all.

Source: ridge regression with two-fold cross-validation; targets from the float model's outputs rather than from
W x as in Li et al. 2025, "GPTAQ", arXiv:2504.02692.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from calibration.refinement.layer_statistics import LayerStatistics, Sums
from calibration.refinement.workers import Run, alone

RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Values of a, tried in this order until one does worse than the one before: for many layers the first does worse than
nothing. At 10 what is left of D lies within rounding."""

ALIKE = 0.1
"""Cosine of the halves' residuals below which nothing is fitted: what is no chance in a half is about this share of it.
Of the layers of a ResNet-50, a ResNet-50-thin, a ResNet-18, EfficientNet-Lite0 and MobileNetV2 at effort 2, an `a`
helped 5 of 124 below it and 104 of 170 above."""

Array = NDArray[np.floating]


def compensation(statistics: LayerStatistics, run: Run = alone) -> Array | None:
    """Return D, float32 [groups, O, K]; None where none lowers the error on images that did not take part.

    Args:
        statistics: Of the layer, with what it misses.
        run: Runs what is done for both halves at a time.
    """
    if not is_worth_fitting(statistics):
        return None
    first, second = statistics.halves
    found, least, least_of_all = np.zeros_like(first.residual), np.zeros(first.residual.shape[:2]), 0.0
    for ridge in RIDGES:
        fits = run(partial(_fit, half, ridge) for half in (first, second))
        change = np.sum(run(map(partial, repeat(error_change), fits, (second, first))), axis=0)
        if not -np.inf < change.sum() < least_of_all:  # of weights of 1e20 the squared error is beyond float32
            break
        least_of_all = change.sum()
        better = change < least
        least[better] = change[better]
        mean = np.add(fits[0], fits[1], out=fits[0])
        mean /= 2
        found[better] = mean[better]
        del fits, mean  # the next ones are as large
    return found if least_of_all else None


def is_worth_fitting(statistics: LayerStatistics) -> bool:
    """Tell whether what the layer misses is alike in both halves; some of its outputs tell for all."""
    return _likeness(*statistics.halves) >= ALIKE


def error_change(change: Array, sums: Sums) -> NDArray[np.float64]:
    """Return by how much the squared error of each row's output grows when `change` is added to it, [groups, O].

    Args:
        change: Of the weights, [groups, O, K].
        sums: H and M of the images in question.
    """
    inner = np.matmul(change, sums.hessian) - 2 * sums.residual
    inner *= change
    grown: NDArray[np.float64] = inner.sum(axis=2, dtype=np.float64)
    return grown


def _likeness(first: Sums, second: Sums) -> float:
    """Return the cosine of two residuals, each column relative to how large its input is; 0 where one is nothing."""
    sizes = np.einsum("gkk->gk", first.hessian) + np.einsum("gkk->gk", second.hessian)
    weights = np.divide(1, sizes, out=np.zeros_like(sizes), where=sizes > 0)

    def product(one: Sums, other: Sums) -> float:
        return float(np.einsum("gok,gok,gk->", one.residual, other.residual, weights))

    lengths = product(first, first) * product(second, second)
    return product(first, second) / math.sqrt(lengths) if 0 < lengths < math.inf else 0.0


def _fit(sums: Sums, ridge: float) -> Array:
    """Return D, float32 [groups, O, K], for one ridge.

    D (H + a L) = M,   L = diag(H) + 1e-3 of its mean, which keeps what is never read where it is
    """
    diagonal = np.einsum("gkk->gk", sums.hessian)  # a view, here into what can be written
    own, mean = diagonal.copy(), diagonal.mean(axis=1, keepdims=True)
    diagonal += np.float32(ridge) * (own + 1e-3 * mean + np.where(mean == 0, 1.0, 0.0))
    solution: Array = np.linalg.solve(sums.hessian, sums.residual.transpose(0, 2, 1)).transpose(0, 2, 1)
    diagonal[:] = own  # LAPACK copies the matrix anyway; this saves a second copy
    return solution
