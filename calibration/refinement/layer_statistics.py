"""Sums of what a layer reads and of what it misses: all that rounding and compensation need to know.

    x   [K]   what the quantized layer reads at one position, after all roundings before it
    d   [K]   x_float - x, with x_float what the float layer reads there
    e   [O]   W d + (W - V) x: what its sum lacks there, with W its weights and V what they are so far
    H = sum of x x^T,  M = sum of e x^T = W (sum of d x^T) while V = W

In a layer of more outputs than inputs the sum of d x^T is the smaller one, and W is multiplied once.

Image after image is added to the sums of one of two halves, so that what is fitted on one half can be judged on the
other, and nothing grows with the number of images.

A few hundred positions do not tell the correlations of a thousand channels. So H is shrunk towards its diagonal by as
much as it differs from image to image:

    H* = (1 - d) H + d diag(H),   d = sum over images |H_i - mean|^2 / (n (n - 1))  /  |mean|^2,  off the diagonal

Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices" (the intensity);
towards the diagonal: Schaefer and Strimmer 2005, target D. Images, not positions, are the independent draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.refinement.layer_hessian import sampled_rows

Tensor = NDArray[np.float32]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Of some images.

    Attributes:
        hessian: H, float32 [groups, K, K].
        residual: M, float32 [groups, O, K]; zeros where what the float layer reads was not given.
    """

    hessian: Array
    residual: Array


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """One layer's sums.

    Attributes:
        halves: Over every second image, and over the others.
        shrinkage: d, float32 [groups], from 0 to 1.
    """

    halves: tuple[Sums, Sums]
    shrinkage: Array

    def whole(self) -> Sums:
        """Return the sums over all images, with H* for H."""
        first, second = self.halves
        hessian: Array = first.hessian + second.hessian
        diagonal = np.einsum("gkk->gk", hessian).copy()
        hessian *= 1 - self.shrinkage[:, np.newaxis, np.newaxis]
        places = np.arange(hessian.shape[1])
        hessian[:, places, places] = diagonal
        return Sums(hessian, first.residual + second.residual)


def collect(
    node: NodeProto,
    images: Iterable[tuple[Tensor, Tensor | None]],
    weight: Array,
    current: Array,
    kernel_shape: tuple[int, ...],
    *,
    num_images: int,
    columns: slice = slice(None),
) -> LayerStatistics:
    """Look at one layer.

    Args:
        node: Conv, Gemm or MatMul.
        images: Of each image what the quantized layer reads [C, H, W] (or [..., K]), and what the float layer reads.
        weight: W, float32 [groups, O, K].
        current: V, float32 [groups, O, K].
        kernel_shape: [kH, kW] of a Conv.
        num_images: How many images there are.
        columns: Which of the K values x is of.
    """
    groups, rows, _ = weight.shape
    width = len(range(*columns.indices(weight.shape[2])))
    first, second = (
        Sums(np.zeros((groups, width, width), np.float32), np.zeros((groups, rows, width), np.float32))
        for _ in range(2)
    )
    squares = np.zeros(groups)
    moved = weight - current
    moved_at_all = bool(moved.any())
    by_inputs = not moved_at_all and weight.shape[2] < 2 * rows
    crossed = [np.zeros((groups, weight.shape[2], width), np.float32) for _ in range(2)] if by_inputs else []
    for index, (read, in_float) in enumerate(images):
        sums = second if index % 2 else first
        whole = sampled_rows(node, read, kernel_shape, num_images)
        x = np.ascontiguousarray(whole[:, :, columns])
        of_image = gram(x)
        squares += _off_diagonal_square(of_image)
        np.add(sums.hessian, of_image, out=sums.hessian)
        if in_float is None:
            continue
        lost = sampled_rows(node, in_float, kernel_shape, num_images) - whole
        if by_inputs:
            crossed[index % 2] += np.matmul(lost.transpose(0, 2, 1), x)
            continue
        missing = np.matmul(lost, weight.transpose(0, 2, 1))
        if moved_at_all:
            missing += np.matmul(whole, moved.transpose(0, 2, 1))
        np.add(sums.residual, np.matmul(missing.transpose(0, 2, 1), x), out=sums.residual)
    for sums, of_half in zip((first, second), crossed, strict=False):
        np.matmul(weight, of_half, out=sums.residual)
    return LayerStatistics((first, second), _shrinkage(first.hessian + second.hessian, squares, num_images))


def gram(rows: Array) -> Array:
    """Return rows^T rows of each group, float32 [groups, K, K]."""
    if len(rows) == 1:  # a product of two dimensions with itself costs half
        product: Array = (rows[0].T @ rows[0])[np.newaxis]
        return product
    product = np.matmul(rows.transpose(0, 2, 1), rows)
    return product


def _off_diagonal_square(hessian: Array) -> NDArray[np.float64]:
    """Return the sum of squares off the diagonal of each group, [groups]."""
    flat = hessian.reshape(len(hessian), -1)
    squares = np.array([float(np.dot(row, row)) for row in flat])
    squares -= np.square(np.einsum("gkk->gk", hessian), dtype=np.float64).sum(axis=1)
    return squares


def _shrinkage(hessian: Array, squares: NDArray[np.float64], count: int) -> Array:
    """Return d; 1 where there is one image only, or nothing off the diagonal."""
    off = _off_diagonal_square(hessian) / count**2
    if count < 2:
        return np.ones(len(off), np.float32)
    noise = np.maximum(squares / count - off, 0.0) / (count - 1)
    shrinkage: Array = np.where(off > 0, np.clip(noise / np.where(off > 0, off, 1.0), 0.0, 1.0), 1.0).astype(np.float32)
    return shrinkage
