"""Round one layer's weights so that its output, on what it really reads, stays near the float layer's.

    1  `layer_statistics`     what the layer reads, and what it misses, summed over the sample
    2  `weight_compensation`  target: the float weights, or those that make up for the error in what is read
    3  `coordinate_descent`   levels for the target
    4  where the target is another than the float weights: row by row, the levels are kept only where they lower the
       layer's error below that of the nearest levels (descent towards the float weights does so by itself)

For a layer of many columns there hardly ever are such: a few of its outputs tell. A wide one is rounded in parts of
columns, each for itself, and aims at its float weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.refinement.coordinate_descent import column_parts, nearest_levels, round_by_descent
from calibration.refinement.layer_hessian import weight_rows
from calibration.refinement.layer_reads import Input, LayerReads
from calibration.refinement.layer_statistics import LayerStatistics, Sums, collect
from calibration.refinement.weight_compensation import compensation, error_change, is_worth_fitting
from calibration.refinement.workers import Run, alone

WIDEST = 1152
"""Columns rounded together, 3 x 3 x 128: a Hessian of 5 MB, and time that grows with their cube. The default effort
leaves wider layers alone: they are the last of a network, where rounding gains least, 0.1 dB on a ResNet-18. Parts of
2304 columns are no nearer there (three orders of the images)."""

SELDOM_FITTED = 576
"""Columns, 3 x 3 x 64, of more than which a layer seldom has weights that make up for the error in what it reads. Some
that did better on the other half were found for one of 104 such layers and parts of a ResNet-50, a ResNet-50-thin, a
ResNet-18, EfficientNet-Lite0 and MobileNetV2, for 108 of 190 others. To look for them takes longer than to round."""

FEW = 32
"""Outputs that tell whether to look for them."""

LARGEST_SUM = 1e30
"""Of the squares of what a layer reads. Of larger ones the products with a column of levels may leave float32: such a
layer, which reads values beyond 1e13, takes the nearest levels."""

LARGE = 2**20
"""Weights of which more are rounded in one thread, but for the sums: every thread would hold 8 MB and more."""

Tensor = NDArray[np.float32]
Array = NDArray[np.floating]


@np.errstate(over="ignore", invalid="ignore")  # what overflows is not better than the nearest levels
def round_layer(
    node: NodeProto,
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    reads: Callable[[], Iterable[tuple[Input, Input]]],
    *,
    num_images: int,
    center: NDArray[np.float32] | None = None,
    run: Run = alone,
) -> NDArray[np.int8]:
    """Return INT8 levels, int8 [groups, O, K].

    Args:
        node: Conv, Gemm or MatMul for which `has_rows` is true.
        weight: Its float weight, in the node's own layout.
        scale: Step per row, float32 [groups, O], > 0.
        reads: Gives, image by image, what returns the input of the quantized and of the float layer, float32 [C, H, W]
            for Conv, [..., K] else; called once for each part of the columns.
        num_images: How many images that are.
        center: Mean of what the quantized layer reads, float32 [groups, K], where its bias is corrected afterwards.
        run: Runs parts of the work at a time.
    """
    own = weight_rows(node, weight).astype(np.float32, copy=False)
    layer = LayerReads(node, weight.shape[2:], own, reads, num_images, center)
    if own.shape[2] <= WIDEST:
        return _round_whole(layer, scale, run)
    parts = column_parts(own.shape[2], WIDEST)
    levels = np.empty(own.shape, np.int8)
    within, beside = (run, alone) if own[:, :, parts[0]].size > LARGE else (alone, run)

    def round_parts(some: Iterable[slice]) -> None:
        for part in some:
            levels[:, :, part] = _round_part(layer, part, scale, within)

    beside(partial(round_parts, parts[first::2]) for first in range(2))
    return levels


def _round_part(layer: LayerReads, part: slice, scale: NDArray[np.float32], run: Run) -> NDArray[np.int8]:
    """Return levels for some columns, int8 [groups, O, columns], that aim at the float weights."""
    return _descend(layer.weight[:, :, part], scale, collect(layer.inputs(part), run=run), run)


def _round_whole(layer: LayerReads, scale: NDArray[np.float32], run: Run) -> NDArray[np.int8]:
    """Return levels, int8 [groups, O, K], that aim at weights which make up for the error in what the layer reads."""
    weight, is_centered = layer.weight, layer.center is not None
    if weight.shape[2] > SELDOM_FITTED and weight.shape[1] > 2 * FEW:
        some = slice(None, None, weight.shape[1] // FEW)
        statistics = collect(layer.missed_outputs(some), is_centered=is_centered, run=run)
        if not is_worth_fitting(statistics):
            return _descend(weight, scale, statistics, run)
    if weight.shape[2] < 2 * weight.shape[1]:  # the shorter way: d has fewer columns than twice the rows
        statistics = collect(layer.missed_inputs(), weight=weight, is_centered=is_centered, run=run)
    else:
        statistics = collect(layer.missed_outputs(), is_centered=is_centered, run=run)
    run_rows = run if weight.size <= LARGE else alone
    moved = compensation(statistics, run_rows) if _is_usable(statistics) else None
    if moved is None:
        return _descend(weight, scale, statistics, run)
    sums = statistics.whole()
    del statistics  # its halves are as large
    return _levels(weight, moved, scale, sums, run_rows)


def _descend(weight: Tensor, scale: NDArray[np.float32], statistics: LayerStatistics, run: Run) -> NDArray[np.int8]:
    """Return levels that aim at the float weights."""
    if not _is_usable(statistics):
        return nearest_levels(weight, scale).astype(np.int8)
    return round_by_descent(weight, scale, statistics.whole().hessian, run if weight.size <= LARGE else alone)


def _is_usable(statistics: LayerStatistics) -> bool:
    """Tell whether products with the sums stay within float32."""
    return all(np.einsum("gkk->gk", half.hessian).max() < LARGEST_SUM for half in statistics.halves)


def _levels(weight: Tensor, moved: Array, scale: NDArray[np.float32], sums: Sums, run: Run) -> NDArray[np.int8]:
    """Return levels for `weight + moved`; rows for which they are no better than the nearest ones take the nearest."""
    nearest = nearest_levels(weight, scale)
    rounded = round_by_descent(weight + moved, scale, sums.hessian, run)
    step = scale[:, :, np.newaxis]
    errors = run(partial(error_change, levels * step - weight, sums) for levels in (nearest, rounded))
    better = (errors[1] < errors[0]) & np.isfinite(errors[1])
    return np.where(better[:, :, np.newaxis], rounded, nearest).astype(np.int8)
