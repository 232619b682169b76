"""Second-order weight rounding: choose each weight's level so that the layer's output, not the weight, is close.

Rounding a weight w_j of a row leaves an error e_j. The best change of the weights not rounded yet makes up for it:

    minimize  (w - q) H (w - q)^T,      H = sum over what the layer reads of  x x^T
    column by column:   e = (w_j - q_j) / U_jj,     w_k -= e U_jk  for k > j

with U the upper Cholesky factor of H^-1. Columns go in the order of falling H_jj, so that what matters most is rounded
while most of the others can still make up for it. Only levels change, by a step or two: from few images the method
cannot fit noise as a free choice of weights would.

Source: Frantar et al. 2022, "GPTQ", arXiv:2210.17323 (Cholesky form, blocks, damping of 1 %); Frantar and Alistarh 2022,
"Optimal Brain Compression", arXiv:2208.11580; order of columns: the `act_order` option of the GPTQ authors' code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.quantize_weight import QMAX

DAMPING = 0.01
"""Share of the mean of H's diagonal added to it (GPTQ's default)."""

BLOCK = 128
"""Columns rounded before the others are updated by one matrix product (GPTQ's default)."""


def round_by_hessian(
    weight: NDArray[np.floating], scale: NDArray[np.float32], hessian: NDArray[np.float64], *, damping: float = DAMPING
) -> NDArray[np.int8]:
    """Return INT8 levels, int8 [O, K].

    Args:
        weight: Rows to round, float [O, K].
        scale: Step per row, float32 [O], > 0.
        hessian: x x^T summed over what the layer reads, float64 [K, K], symmetric, positive semi-definite.
        damping: Share of the mean diagonal added to the diagonal, > 0.

    Returns:
        Levels in [-127, 127]. A column that is never read (H_jj = 0) is rounded to the nearest.
    """
    columns = weight.shape[1]
    diagonal = np.diag(hessian).copy()
    if not diagonal.any():
        nearest: NDArray[np.int8] = np.clip(np.rint(weight / scale[:, np.newaxis]), -QMAX, QMAX).astype(np.int8)
        return nearest
    damped = hessian.copy()
    never_read = diagonal == 0
    damped[never_read, never_read] = 1.0
    damped[np.diag_indices(columns)] += damping * diagonal.mean()
    order = np.argsort(-diagonal, kind="stable")
    upper = _upper_factor_of_inverse(damped[np.ix_(order, order)])
    rest = weight[:, order].astype(np.float64)
    levels = np.empty(rest.shape)
    step = scale.astype(np.float64)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((len(rest), end - start))
        for column in range(start, end):
            levels[:, column] = np.clip(np.rint(rest[:, column] / step), -QMAX, QMAX)
            error = (rest[:, column] - levels[:, column] * step) / upper[column, column]
            rest[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
            errors[:, column - start] = error
        rest[:, end:] -= errors @ upper[start:end, end:]
    result = np.empty(weight.shape, np.int8)
    result[:, order] = levels.astype(np.int8)
    return result


def _upper_factor_of_inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangular U with U^T U = matrix^-1."""
    inverse = np.linalg.inv(matrix)
    upper: NDArray[np.float64] = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return upper
