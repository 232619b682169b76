"""Round one layer's weights so that its output, on what it really reads, stays near the float layer's.

    1  `layer_statistics`     what the layer reads, and what it misses, summed over the sample
    2  `weight_compensation`  target: the float weights, or those that make up for the error in what is read
    3  `coordinate_descent`   levels for the target
    4  row by row, the levels are kept only where they lower the layer's error below that of the nearest levels

Wide layers are rounded in parts of columns, one after the other: each part sees what the parts before it left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.refinement.coordinate_descent import column_parts, nearest_levels, round_by_descent
from calibration.refinement.layer_hessian import weight_rows
from calibration.refinement.layer_statistics import collect
from calibration.refinement.weight_compensation import compensation, error_change
from exporter.graph.onnx_graph import attribute

WIDEST = 1152
"""Columns of the widest layer that the default effort rounds, 3 x 3 x 128; the time grows with their cube. Wider ones
are the last of a network, where rounding gains least: 0.1 dB on a ResNet-18, for twice the time on a ResNet-50."""

PART = 2304
"""Columns rounded together: a Hessian of 21 MB."""

Tensor = NDArray[np.float32]
Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class FloatLayer:
    """A layer of the float model.

    Attributes:
        weight: float32, in the node's own layout.
        bias: float32 [O], or None.
        is_sum: Whether its output is W x + b and no multiple of that (`is_plain_sum`).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    is_sum: bool


def is_plain_sum(node: NodeProto) -> bool:
    """Tell whether a layer gives W x + b: a Gemm may have factors and an input that is transposed."""
    plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return node.op_type != "Gemm" or (plain and attribute(node, "transA", 0) == 0)


def round_layer(
    node: NodeProto,
    layer: FloatLayer,
    scale: NDArray[np.float32],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> NDArray[np.int8]:
    """Return INT8 levels, int8 [groups, O, K].

    Args:
        node: Conv, Gemm or MatMul for which `has_rows` is true.
        layer: Its float weight and bias.
        scale: Step per row, float32 [groups, O], > 0.
        inputs: What the quantized layer reads, per batch: float32 [n, C, H, W] for Conv, [n, ..., K] else.
        outputs: What the float layer gives, per batch, float32 [n, O, H, W] or [n, ..., O].
    """
    weight = weight_rows(node, layer.weight).astype(np.float32)
    bias = np.zeros(scale.shape, np.float32) if layer.bias is None else layer.bias.reshape(scale.shape)
    current = weight.copy()
    levels = np.empty(weight.shape, np.int8)
    for part in column_parts(weight.shape[2], PART):
        statistics = collect(
            node,
            _images(inputs, outputs if layer.is_sum else None),
            current,
            bias,
            layer.weight.shape[2:],
            num_images=sum(map(len, inputs)),
            columns=part,
        )
        own = weight[:, :, part]
        moved = compensation(statistics)
        target = own if moved is None else own + moved
        residual = np.zeros_like(statistics.residual) if moved is None else statistics.residual
        levels[:, :, part] = _levels(own, target, scale, statistics.shrunk_hessian(), residual)
        current[:, :, part] = levels[:, :, part] * scale[:, :, np.newaxis]
    return levels


def _levels(
    weight: Tensor, target: Array, scale: NDArray[np.float32], hessian: Tensor, residual: Tensor
) -> NDArray[np.int8]:
    """Return levels for `target`; rows for which they are no better than the nearest ones take the nearest."""
    nearest = nearest_levels(weight, scale)
    rounded = round_by_descent(target, scale, hessian)
    step = scale[:, :, np.newaxis]
    errors = [error_change(levels * step - weight, hessian, residual) for levels in (nearest, rounded)]
    better = errors[1] < errors[0]
    return np.where(better[:, :, np.newaxis], rounded, nearest).astype(np.int8)


def _images(inputs: Sequence[Tensor], outputs: Sequence[Tensor] | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield what is read and given, image by image."""
    if outputs is None:
        return ((image, None) for batch in inputs for image in batch)
    return zip(chain.from_iterable(inputs), chain.from_iterable(outputs), strict=True)
