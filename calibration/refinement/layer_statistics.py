"""What a layer reads and what it misses, summed over images: all that rounding and compensation need to know.

    H = sum x x^T                      x: what the quantized layer reads at one position, after all roundings before it
    M = sum (y - W x - b) x^T          y: what the float layer gives there: the error that came with the input

Both are kept for two halves of the images, so that what is fitted on one half can be judged on the other.

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
class LayerStatistics:
    """Sums over two halves of the images.

    Attributes:
        hessians: H of each half, float32 [groups, K, K].
        residuals: M of each half, float32 [groups, O, K]; zeros where the float layer's outputs were not given.
        shrinkage: d, float32 [groups], from 0 to 1.
    """

    hessians: tuple[Array, Array]
    residuals: tuple[Array, Array]
    shrinkage: Array

    @property
    def hessian(self) -> Array:
        """H over all images."""
        total: Array = self.hessians[0] + self.hessians[1]
        return total

    @property
    def residual(self) -> Array:
        """M over all images."""
        total: Array = self.residuals[0] + self.residuals[1]
        return total

    def shrunk_hessian(self) -> Array:
        """Return H*, float32 [groups, K, K]."""
        result = self.hessian
        diagonal = np.einsum("gkk->gk", result)
        kept = 1 - self.shrinkage[:, np.newaxis]
        restored = diagonal.copy()
        result *= kept[:, :, np.newaxis]
        places = np.arange(result.shape[1])
        result[:, places, places] = restored
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
    """Sum up one layer.

    Args:
        node: Conv, Gemm or MatMul.
        images: Of each image what the quantized layer reads [C, H, W] (or [..., K]), and what the float layer gives.
        weight: What the layer's weight is so far, float32 [groups, O, K].
        bias: The float layer's, float32 [groups, O].
        kernel_shape: [kH, kW] of a Conv.
        num_images: How many images there are.
        columns: Which of the K values H and M are of.
    """
    width = len(range(*columns.indices(weight.shape[2])))
    groups, rows = weight.shape[:2]
    halves = [np.zeros((groups, width, width), np.float32) for _ in range(2)]
    residuals = [np.zeros((groups, rows, width), np.float32) for _ in range(2)]
    squares = np.zeros(groups)
    for index, (read, given) in enumerate(images):
        whole = sampled_rows(node, read, kernel_shape, num_images)
        x = whole[:, :, columns]
        product = np.matmul(x.transpose(0, 2, 1), x)
        squares += _off_diagonal_square(product)
        halves[index % 2] += product
        if given is not None:
            missing = sampled_outputs(node, given, groups, num_images) - bias[:, np.newaxis]
            missing -= np.matmul(whole, weight.transpose(0, 2, 1))
            residuals[index % 2] += np.matmul(missing.transpose(0, 2, 1), x)
    return LayerStatistics(
        (halves[0], halves[1]), (residuals[0], residuals[1]), _shrinkage(halves, squares, num_images)
    )


def _off_diagonal_square(product: Array) -> NDArray[np.float64]:
    diagonal = np.einsum("gkk->gk", product)
    squares: NDArray[np.float64] = np.einsum("gkl,gkl->g", product, product, dtype=np.float64)
    squares -= np.square(diagonal, dtype=np.float64).sum(axis=1)
    return squares


def _shrinkage(halves: list[Array], squares: NDArray[np.float64], count: int) -> Array:
    """Return d; 1 where there is one image only, or nothing off the diagonal."""
    off = _off_diagonal_square(halves[0] + halves[1]) / count**2
    if count < 2:
        return np.ones(len(off), np.float32)
    noise = np.maximum(squares / count - off, 0.0) / (count - 1)
    shrinkage: Array = np.where(off > 0, np.clip(noise / np.where(off > 0, off, 1.0), 0.0, 1.0), 1.0).astype(np.float32)
    return shrinkage
