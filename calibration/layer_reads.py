"""What each output of a weighted layer reads, as rows: the matrix form of Conv, Gemm and MatMul.

    Conv:  output[n, o, y, x] = sum_k W[o, k] rows[(n, y, x), k] + b[o],   k runs over (channel of the group, ky, kx)

Source: ONNX operators Conv, Gemm, MatMul.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from exporter.graph import attribute

Tensor = NDArray[np.float32]

MAX_ROWS = 8192
"""Rows that enter one layer's Hessian: for the widest ResNet layer (K = 4608) nearly two per column."""


def hessians(node: NodeProto, inputs: Sequence[Tensor], kernel_shape: Sequence[int]) -> NDArray[np.float64]:
    """Return x x^T summed over sampled rows, float64 [groups, K, K].

    Args:
        node: Conv, Gemm or MatMul.
        inputs: What it reads, per batch: float32 [n, C, H, W] for Conv, [n, ..., K] else.
        kernel_shape: [kH, kW] of a Conv; not read for the others.
    """
    num_images = sum(len(batch) for batch in inputs)
    total: NDArray[np.float64] | None = None
    for batch in inputs:
        for image in batch:
            rows = _rows(node, image, kernel_shape)
            stride = max(1, rows.shape[1] * num_images // MAX_ROWS)
            sampled = rows[:, stride // 2 :: stride]
            product = np.matmul(sampled.transpose(0, 2, 1), sampled).astype(np.float64)
            total = product if total is None else total + product
    assert total is not None  # PairedWalk refuses an empty list of images
    return total


def _rows(node: NodeProto, image: Tensor, kernel_shape: Sequence[int]) -> Tensor:
    """Return the rows of one image, float32 [groups, positions, K]."""
    if node.op_type != "Conv":
        return image.reshape(1, -1, image.shape[-1])
    strides = attribute(node, "strides", [1, 1])
    dilations = attribute(node, "dilations", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    spans = [(side - 1) * dilation + 1 for side, dilation in zip(kernel_shape, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    channels, height, width = windows.shape[:3]
    groups = attribute(node, "group", 1)
    grouped = windows.reshape(groups, channels // groups, height, width, *kernel_shape)
    rows: Tensor = grouped.transpose(0, 2, 3, 1, 4, 5).reshape(groups, height * width, -1)
    return rows


def weight_rows(node: NodeProto, weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the weight as [groups, O / groups, K], a view or copy."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0) == 1
    return (weight if transposed else weight.T)[np.newaxis]


def weight_from_rows(node: NodeProto, rows: NDArray[np.int8], shape: Sequence[int]) -> NDArray[np.int8]:
    """Return `rows` [groups, O / groups, K] in the layout of the node's weight: the inverse of `weight_rows`."""
    if node.op_type == "Conv":
        return rows.reshape(tuple(shape))
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0) == 1
    return np.ascontiguousarray(rows[0] if transposed else rows[0].T)
