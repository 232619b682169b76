"""Second-order weight rounding: choose each weight's level so that the layer's output, not the weight, is close.

Rounding a weight w_j of a row leaves an error e_j. The best change of the weights not rounded yet makes up for it:

    minimize  (w - q) H (w - q)^T = |R (w - q)^T|^2,      H = sum over what the layer reads of  x x^T = R^T R
    from the last column to the first:   q_j = round( w_j + sum over k > j of  R_jk e_k / R_jj ),     e_k = w_k - q_k

with R the upper Cholesky factor of H. Columns are sorted so that H_jj falls in the order of rounding: what matters
most is rounded while most of the others can still make up for it. Only levels change, by a step or two: from few images
the method cannot fit noise as a free choice of weights would.

Source: Frantar et al. 2022, "GPTQ", arXiv:2210.17323 (blocks, damping of 1 %); Frantar and Alistarh 2022, "Optimal
Brain Compression", arXiv:2208.11580; order of columns: the `act_order` option of the GPTQ authors' code. GPTQ carries
errors forward with the factor of H^-1; going backward with that of H gives the same levels (tests/calibration/
test_round_weights.py compares the two) without inverting H, which for 4608 columns is most of the work.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from calibration.methods.quantize_weight import QMAX

DAMPING = 0.01
"""Share of the mean of H's diagonal added to it (GPTQ's default)."""

MAX_COLUMNS = 9216
"""Columns of one Hessian, 0.7 GB in float64: 3 x 3 x 1024, the widest layer of a wide ResNet. VGG's first dense layer
reads 25088 values, whose Hessian alone takes 5 GB; rounded as a whole, the process was killed at 23 GB."""

BLOCK = 128
"""Columns rounded between two matrix products that gather the errors so far (GPTQ's default)."""


def column_parts(columns: int) -> tuple[slice, ...]:
    """Return the parts, of nearly equal size, in which a layer of more than `MAX_COLUMNS` columns is rounded.

    What one part owes is not made up for in another: correlations between them are left out.
    """
    count = -(-columns // MAX_COLUMNS)
    ends = [columns * place // count for place in range(count + 1)]
    return tuple(slice(start, end) for start, end in itertools.pairwise(ends))


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
    order = np.argsort(-diagonal, kind="stable")[::-1]  # the last column is rounded first
    damped = hessian[np.ix_(order, order)]
    places = np.arange(columns)
    damped[places, places] = np.where(diagonal == 0, 1.0, diagonal)[order] + damping * diagonal.mean()
    factor = np.linalg.cholesky(damped).T
    target = weight[:, order].astype(np.float64)
    step = scale.astype(np.float64)
    levels, errors = np.empty(target.shape), np.empty(target.shape)
    for end in range(columns, 0, -BLOCK):
        start = max(0, end - BLOCK)
        owed = errors[:, end:] @ factor[start:end, end:].T
        for column in reversed(range(start, end)):
            inside = errors[:, column + 1 : end] @ factor[column, column + 1 : end]
            wanted = target[:, column] + (owed[:, column - start] + inside) / factor[column, column]
            levels[:, column] = np.clip(np.rint(wanted / step), -QMAX, QMAX)
            errors[:, column] = target[:, column] - levels[:, column] * step
    result = np.empty(weight.shape, np.int8)
    result[:, order] = levels.astype(np.int8)
    return result
