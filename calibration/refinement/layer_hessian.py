"""Matrix form of Conv, Gemm and MatMul: the inputs that each output reads, as rows.

    Conv:  output[n, o, y, x] = sum_k W[o, k] rows[(n, y, x), k] + b[o],   k runs over (channel of the group, ky, kx)

A Conv has two spatial axes and explicit pads here (`has_rows`).

Source: ONNX operators Conv, Gemm, MatMul.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.observers.sampled_positions import sampled_positions
from exporter.graph.onnx_graph import attribute

Tensor = NDArray[np.float32]

MAX_ROWS = 8192
"""Rows that enter one layer's Hessian: for the widest ResNet layer (K = 4608) nearly two per column."""


def has_rows(node: NodeProto, weight_ndim: int) -> bool:
    """Tell whether this module knows what the node reads; `weight_ndim` is the number of its weight's axes."""
    return node.op_type != "Conv" or (weight_ndim == 4 and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET")


def sampled_rows(
    node: NodeProto, image: Tensor, kernel_shape: Sequence[int], *, num_images: int, columns: slice = slice(None)
) -> Tensor:
    """Return what the node reads at sampled positions of one image, float32 [groups, positions, columns].

    Args:
        node: Conv, Gemm or MatMul.
        image: What it reads, float32 [C, H, W] for Conv, [..., K] else.
        kernel_shape: [kH, kW] of a Conv; not read for the others.
        num_images: Over which `MAX_ROWS` are spread.
        columns: Which of the K values; all by default.
    """
    wanted = max(1, MAX_ROWS // num_images)
    if node.op_type != "Conv":
        matrix = image.reshape(1, -1, image.shape[-1])
        return matrix[:, sampled_positions(matrix.shape[1], wanted), columns]
    area = math.prod(kernel_shape)
    start, stop, _ = columns.indices(len(image) // attribute(node, "group", 1) * area)
    first, last = start // area, -(-stop // area)
    rows = _conv_rows(node, image, kernel_shape, wanted, slice(first, last))
    return rows[:, :, start - first * area : stop - first * area]


def mean_row(node: NodeProto, image: Tensor, kernel_shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean of what the node reads over all positions of one image, float64 [groups, K].

    Args:
        node: Conv, Gemm or MatMul.
        image: What it reads, float32 [C, H, W] for Conv, [..., K] else.
        kernel_shape: [kH, kW] of a Conv; not read for the others.
    """
    if node.op_type != "Conv":
        mean: NDArray[np.float64] = image.reshape(1, -1, image.shape[-1]).mean(axis=1, dtype=np.float64)
        return mean
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    padded = _padded(node, image)
    spans = [(side - 1) * dilation + 1 for side, dilation in zip(kernel_shape, dilations, strict=True)]
    sizes = [(size - span) // step + 1 for size, span, step in zip(padded.shape[1:], spans, strides, strict=True)]
    sums = np.empty((len(image), *kernel_shape))
    for y in range(kernel_shape[0]):
        first = y * dilations[0]
        column = padded[:, first : first + (sizes[0] - 1) * strides[0] + 1 : strides[0]].sum(axis=1)
        for x in range(kernel_shape[1]):
            first = x * dilations[1]
            picked = column[:, first : first + (sizes[1] - 1) * strides[1] + 1 : strides[1]]
            sums[:, y, x] = picked.sum(axis=1, dtype=np.float64)
    mean = sums.reshape(attribute(node, "group", 1), -1) / (sizes[0] * sizes[1])
    return mean


def _conv_rows(node: NodeProto, image: Tensor, kernel_shape: Sequence[int], wanted: int, channels: slice) -> Tensor:
    """Return about `wanted` rows of some of each group's channels, float32 [groups, positions, K]."""
    groups = attribute(node, "group", 1)
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    chosen = image.reshape(groups, -1, *image.shape[1:])[:, channels]
    padded = _padded(node, chosen.reshape(-1, *image.shape[1:]))
    spans = [(side - 1) * dilation + 1 for side, dilation in zip(kernel_shape, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    _, height, width = windows.shape[:3]
    places = np.arange(height * width)[sampled_positions(height * width, wanted)]
    picked = windows[:, places // width, places % width].reshape(groups, -1, len(places), *kernel_shape)
    rows: Tensor = picked.transpose(0, 2, 1, 3, 4).reshape(groups, len(places), -1)
    return rows


def _padded(node: NodeProto, image: Tensor) -> Tensor:
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    return np.pad(image, ((0, 0), (top, bottom), (left, right))) if top or left or bottom or right else image


def weight_rows(node: NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
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
