"""Matrix form of Conv, Gemm and MatMul: the inputs that each output reads, as rows.

    Conv:  output[n, o, y, x] = sum_k W[o, k] rows[(n, y, x), k] + b[o],   k runs over (channel of the group, ky, kx)

A Conv has two spatial axes and explicit pads here (`has_rows`).

Source: ONNX operators Conv, Gemm, MatMul.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


class RowSampler:
    """Gives what a node reads at sampled positions, image after image.

    Args:
        node: Conv, Gemm or MatMul.
        kernel_shape: [kH, kW] of a Conv; not read for the others.
        num_images: Over which `MAX_ROWS` are spread.
    """

    def __init__(self, node: NodeProto, kernel_shape: Sequence[int], *, num_images: int) -> None:
        self._wanted = max(1, MAX_ROWS // num_images)
        self._groups: int = attribute(node, "group", 1)
        self._windows = _Windows.of(node, kernel_shape) if node.op_type == "Conv" else None
        self._size: tuple[int, ...] = ()
        self._places = self._outside = np.zeros(0, np.intp)

    def rows(self, image: Tensor, columns: slice = slice(None)) -> Tensor:
        """Return what the node reads of one image, float32 [groups, positions, columns].

        Args:
            image: What it reads, float32 [C, H, W] for Conv, [..., K] else.
            columns: Which of the K values; all by default.
        """
        if self._windows is None:
            matrix = image.reshape(1, -1, image.shape[-1])
            return matrix[:, sampled_positions(matrix.shape[1], self._wanted), columns]
        if image.shape[1:] != self._size:
            self._places, self._outside = self._windows.places(image.shape[1:], self._wanted)
            self._size = image.shape[1:]  # last: threads look at it first
        area = math.prod(self._windows.kernel)
        start, stop, _ = columns.indices(len(image) // self._groups * area)
        channels = slice(start // area, -(-stop // area))
        pixels = image.reshape(self._groups, -1, math.prod(self._size))[:, channels]
        picked = pixels.take(self._places, axis=2)
        picked[:, :, self._outside] = 0.0
        picked = picked.reshape(*picked.shape[:2], -1, area).transpose(0, 2, 1, 3)
        first = channels.start * area
        rows: Tensor = picked.reshape(*picked.shape[:2], -1)[:, :, start - first : stop - first]
        return rows


@dataclass(frozen=True, slots=True)
class _Windows:
    """Where a Conv's windows lie: kernel, strides and dilations of both axes; pads at top, left, bottom, right."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]

    @classmethod
    def of(cls, node: NodeProto, kernel_shape: Sequence[int]) -> _Windows:
        strides, dilations = (attribute(node, name, (1, 1)) for name in ("strides", "dilations"))
        return cls(kernel_shape, strides, dilations, attribute(node, "pads", (0, 0, 0, 0)))

    def count(self, axis: int, size: int) -> int:
        """Return how many windows lie along one axis of an image of `size` pixels there."""
        span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return (size + self.pads[axis] + self.pads[axis + 2] - span) // self.strides[axis] + 1

    def read_at(self, axis: int, offset: int, size: int) -> slice:
        """Return the pixels, padding left out, that all windows read at one place of the kernel along one axis."""
        step, first = self.strides[axis], offset * self.dilations[axis] - self.pads[axis]
        start = first if first >= 0 else first % step
        stop = first + (self.count(axis, size) - 1) * step + 1
        return slice(start, max(min(stop, size), start), step)

    def places(self, size: tuple[int, ...], wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the pixels that about `wanted` windows read, window by window, and which of these are padding.

        Args:
            size: (H, W) of the image.
            wanted: How many windows.

        Returns:
            The place of each among H x W; and which of them are none but padding.
        """
        width = self.count(1, size[1])
        all_windows = np.arange(self.count(0, size[0]) * width)
        found = all_windows[sampled_positions(len(all_windows), wanted)]
        starts = (found // width)[:, np.newaxis, np.newaxis], (found % width)[:, np.newaxis, np.newaxis]
        offsets = [np.arange(self.kernel[axis]) * self.dilations[axis] - self.pads[axis] for axis in range(2)]
        y = starts[0] * self.strides[0] + offsets[0][:, np.newaxis]
        x = starts[1] * self.strides[1] + offsets[1]
        is_inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
        return np.where(is_inside, y * size[1] + x, 0).ravel(), np.flatnonzero(~is_inside)


def mean_rows(node: NodeProto, images: Tensor, kernel_shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean of what the node reads over all positions of each image, float64 [n, groups, K].

    Args:
        node: Conv, Gemm or MatMul.
        images: What it reads, float32 [n, C, H, W] for Conv, [n, ..., K] else.
        kernel_shape: [kH, kW] of a Conv; not read for the others.
    """
    count = len(images)
    if node.op_type != "Conv":
        mean: NDArray[np.float64] = images.reshape(count, 1, -1, images.shape[-1]).mean(axis=2, dtype=np.float64)
        return mean
    windows = _Windows.of(node, kernel_shape)
    sums = np.empty((*images.shape[:2], *kernel_shape))
    for y in range(kernel_shape[0]):
        column = images[:, :, windows.read_at(0, y, images.shape[2])].sum(axis=2)
        for x in range(kernel_shape[1]):
            sums[:, :, y, x] = column[:, :, windows.read_at(1, x, images.shape[3])].sum(axis=2, dtype=np.float64)
    num_windows = windows.count(0, images.shape[2]) * windows.count(1, images.shape[3])
    mean = sums.reshape(count, attribute(node, "group", 1), -1) / num_windows
    return mean


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
