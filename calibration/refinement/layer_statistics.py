"""What a layer reads and what it misses, over a sample: all that rounding and compensation need to know.

    X   [positions, K]   what the quantized layer reads, after all roundings before it
    E   [positions, O]   what the float layer gives there beyond W X + b: the error that came with the input
    H = X^T X,  M = E^T X

X and E are kept for two halves of the images, so that what is fitted on one half can be judged on the other.

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

from calibration.refinement.layer_hessian import sampled_outputs, sampled_rows

Tensor = NDArray[np.float32]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """Half of the images.

    Attributes:
        read: X, float32 [groups, positions, K].
        missing: E, float32 [groups, positions, O]; zeros where the float layer's outputs were not given.
    """

    read: Array
    missing: Array


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """One layer's sample, and its sums over all images.

    Attributes:
        halves: The sample.
        hessian: H, float32 [groups, K, K].
        residual: M, float32 [groups, O, K].
        shrinkage: d, float32 [groups], from 0 to 1.
    """

    halves: tuple[Half, Half]
    hessian: Array
    residual: Array
    shrinkage: Array

    def shrunk_hessian(self) -> Array:
        """Return H*, float32 [groups, K, K]."""
        kept = 1 - self.shrinkage[:, np.newaxis, np.newaxis]
        result: Array = self.hessian * kept
        places = np.arange(result.shape[1])
        result[:, places, places] = np.einsum("gkk->gk", self.hessian)
        return result


def collect(
    node: NodeProto,
    images: Iterable[tuple[Tensor, Tensor | None]],
    weight: Array,
    bias: Array,
    kernel_shape: tuple[int, ...],
    *,
    num_images: int,
    columns: slice = slice(None),
) -> LayerStatistics:
    """Look at one layer.

    Args:
        node: Conv, Gemm or MatMul.
        images: Of each image what the quantized layer reads [C, H, W] (or [..., K]), and what the float layer gives.
        weight: What the layer's weight is so far, float32 [groups, O, K].
        bias: The float layer's, float32 [groups, O].
        kernel_shape: [kH, kW] of a Conv.
        num_images: How many images there are.
        columns: Which of the K values X is of.
    """
    groups, rows, _ = weight.shape
    reads: tuple[list[Array], list[Array]] = [], []
    misses: tuple[list[Array], list[Array]] = [], []
    squares = np.zeros(groups)
    for index, (read, given) in enumerate(images):
        whole = sampled_rows(node, read, kernel_shape, num_images)
        x = np.ascontiguousarray(whole[:, :, columns])
        squares += _off_diagonal_square(x)
        reads[index % 2].append(x)
        if given is None:
            misses[index % 2].append(np.zeros((groups, x.shape[1], rows), np.float32))
        else:
            missing = sampled_outputs(node, given, groups, num_images) - bias[:, np.newaxis]
            missing -= np.matmul(whole, weight.transpose(0, 2, 1))
            misses[index % 2].append(missing)
    empty = np.zeros((groups, 0, len(range(*columns.indices(weight.shape[2])))), np.float32)
    no_rows = np.zeros((groups, 0, rows), np.float32)
    first, second = (
        Half(np.concatenate([empty, *x], axis=1), np.concatenate([no_rows, *e], axis=1))
        for x, e in zip(reads, misses, strict=True)
    )
    hessian = gram(first.read) + gram(second.read)
    residual = sum((np.matmul(half.missing.transpose(0, 2, 1), half.read) for half in (first, second)), np.float32(0))
    return LayerStatistics((first, second), hessian, residual, _shrinkage(hessian, squares, num_images))


def gram(rows: Array) -> Array:
    """Return rows^T rows of each group, float32 [groups, K, K]."""
    if len(rows) == 1:  # a product of two dimensions with itself costs half
        product: Array = (rows[0].T @ rows[0])[np.newaxis]
        return product
    product = np.matmul(rows.transpose(0, 2, 1), rows)
    return product


def _off_diagonal_square(rows: Array) -> NDArray[np.float64]:
    """Return the sum of squares of rows^T rows off its diagonal, [groups].

    |X^T X| is |X X^T|: the smaller of the two is computed.
    """
    narrow = rows.shape[1] < rows.shape[2]
    product = gram(rows.transpose(0, 2, 1)) if narrow else gram(rows)
    squares = _square(product)
    squares -= np.square(np.square(rows).sum(axis=1), dtype=np.float64).sum(axis=1)
    return squares


def _square(product: Array) -> NDArray[np.float64]:
    """Return the sum of squares of each group."""
    flat = product.reshape(len(product), -1)
    return np.array([float(np.dot(row, row)) for row in flat])


def _shrinkage(hessian: Array, squares: NDArray[np.float64], count: int) -> Array:
    """Return d; 1 where there is one image only, or nothing off the diagonal."""
    diagonal = np.einsum("gkk->gk", hessian)
    off = (_square(hessian) - np.square(diagonal, dtype=np.float64).sum(axis=1)) / count**2
    if count < 2:
        return np.ones(len(off), np.float32)
    noise = np.maximum(squares / count - off, 0.0) / (count - 1)
    shrinkage: Array = np.where(off > 0, np.clip(noise / np.where(off > 0, off, 1.0), 0.0, 1.0), 1.0).astype(np.float32)
    return shrinkage
