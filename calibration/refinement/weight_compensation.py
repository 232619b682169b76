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

from calibration.refinement.layer_statistics import Half, LayerStatistics, gram

RIDGES = (0.01, 0.1, 1.0)
"""Values of a that are tried; at 10 what is left of D lies within rounding."""

Array = NDArray[np.floating]


def compensation(statistics: LayerStatistics) -> Array | None:
    """Return D, float32 [groups, O, K]; None where none lowers the error on images that did not take part.

    Args:
        statistics: Of the layer, with what it misses.
    """
    first, second = statistics.halves
    if not first.read.any() or not second.read.any():
        return None
    ridges = [_Ridge(half) for half in (first, second)]
    change = [_judge(ridges[0].solve(ridge), second) + _judge(ridges[1].solve(ridge), first) for ridge in RIDGES]
    best = int(np.argmin(change))
    if not change[best] < 0:
        return None
    whole = Half(
        np.concatenate([first.read, second.read], axis=1), np.concatenate([first.missing, second.missing], axis=1)
    )
    moved: Array = _Ridge(whole).solve(RIDGES[best]).transpose(0, 2, 1)
    return moved


def error_change(change: Array, hessian: Array, residual: Array) -> NDArray[np.float64]:
    """Return by how much the squared error of each row's output grows when `change` is added to it, [groups, O].

    Args:
        change: Of the weights, [groups, O, K].
        hessian: H, [groups, K, K].
        residual: M, [groups, O, K].
    """
    inner = np.matmul(change, hessian) - 2 * residual
    inner *= change
    grown: NDArray[np.float64] = inner.sum(axis=2, dtype=np.float64)
    return grown


def _judge(moved: Array, half: Half) -> float:
    """Return by how much the squared error of the layer's output grows on images when D^T [groups, K, O] is added."""
    given = np.matmul(half.read, moved)
    return float((given * (given - 2 * half.missing)).sum(dtype=np.float64))


class _Ridge:
    """The equation of one sample, with the ridge open: in its unknowns, or where there are fewer, in its positions.

    D^T = (X^T X + a L)^-1 X^T E  =  L^-1/2 Z^T (Z Z^T + a I)^-1 E,     Z = X L^-1/2,  L = diag(H) + 1e-3 mean
    """

    def __init__(self, half: Half) -> None:
        diagonal = np.square(half.read).sum(axis=1)
        mean = diagonal.mean(axis=1, keepdims=True)
        self._root = np.sqrt(diagonal + 1e-3 * mean + np.where(mean == 0, 1.0, 0.0)).astype(np.float32)
        self._scaled = half.read / self._root[:, np.newaxis]
        self._missing = half.missing
        self._by_position = half.read.shape[1] < half.read.shape[2]
        turned = self._scaled.transpose(0, 2, 1)
        self._matrix = gram(turned if self._by_position else self._scaled)
        self._right = self._missing if self._by_position else np.matmul(turned, self._missing)

    def solve(self, ridge: float) -> Array:
        """Return D^T, float32 [groups, K, O]."""
        matrix = self._matrix.copy()
        places = np.arange(matrix.shape[1])
        matrix[:, places, places] += np.float32(ridge)
        solution: Array = np.linalg.solve(matrix, self._right)
        if self._by_position:
            solution = np.matmul(self._scaled.transpose(0, 2, 1), solution)
        solution /= self._root[:, :, np.newaxis]
        return solution
