"""Sums of what a layer reads and of what it misses: all that rounding and compensation need to know.

    H = sum of x x^T,  M = sum of e x^T = W (sum of d x^T) while nothing is rounded     (x, d, e: `layer_reads`)

Where the layer's bias is corrected afterwards (`bias_correction`), the mean of e goes whatever the weights are. What
they are to lower is how it varies: x, d and e are then what they differ from their means by.

In a layer of more outputs than inputs the sum of d x^T is the smaller one, and W is multiplied once.

Image after image is added to the sums of one of two halves, so that what is fitted on one half can be judged on the
other, and nothing grows with the number of images. The halves are summed side by side.

A few hundred positions do not tell the correlations of a thousand channels. So H is shrunk towards its diagonal by as
much as it differs from image to image:

    H* = (1 - d) H + d diag(H),   d = sum over images |H_i - mean|^2 / (n (n - 1))  /  |mean|^2,  off the diagonal

Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices" (the intensity);
towards the diagonal: Schaefer and Strimmer 2005, target D. Images, not positions, are the independent draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibration.refinement.workers import Run, alone

Array = NDArray[np.float32]

STACK = 1024
"""Rows that are multiplied at once: products of a hundred rows write the result as often as they add to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Of some images.

    Attributes:
        hessian: H, float32 [groups, K, K].
        residual: M, float32 [groups, O, K].
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


Look = Callable[[], tuple[Array, Array]]
"""Looks at one image: x [groups, P, K] and e [groups, P, O]; or d [groups, P, K] for e."""


def collect(
    looks: Iterable[Look], *, weight: Array | None = None, is_centered: bool = False, run: Run = alone
) -> LayerStatistics:
    """Look at one layer.

    Args:
        looks: One for each image, at least one.
        weight: W, float32 [groups, O, K], where the images give d: it is multiplied once.
        is_centered: Whether x is taken from its mean, and e is to be: a bias takes the mean of e away.
        run: Runs several looks at a time.
    """
    all_looks = list(looks)
    read, missed = all_looks[0]()
    first, second = (_Half.empty(len(read), missed.shape[2], read.shape[2]) for _ in range(2))
    first.add(read, missed)
    run((partial(first.look, all_looks[2::2]), partial(second.look, all_looks[1::2])))
    if is_centered:
        mean: Array = (first.total_missed + second.total_missed) / np.float32(first.num_rows + second.num_rows)
        first.take_mean(mean)
        second.take_mean(mean)
    sums = first.sums(weight), second.sums(weight)
    squares = first.squares + second.squares
    return LayerStatistics(sums, _shrinkage(sums[0].hessian + sums[1].hessian, squares, len(all_looks)))


@dataclass(slots=True, eq=False)
class _Half:
    """Sums over the images of one half. Images of few rows wait, until one product serves many.

    Attributes:
        squares: Over the images, of the sum of squares off the diagonal of an image's own H, [groups].
    """

    hessian: Array
    crossed: Array
    total_read: Array
    total_missed: Array
    squares: NDArray[np.float64]
    num_rows: int = 0
    _waiting: tuple[Array, ...] = ()
    _num_waiting: int = 0

    @classmethod
    def empty(cls, groups: int, rows: int, width: int) -> _Half:
        """Begin with H [groups, K, K], the sum of d x^T or e x^T [groups, rows, K], and those of x and of d or e."""
        hessian, crossed = np.zeros((groups, width, width), np.float32), np.zeros((groups, rows, width), np.float32)
        totals = np.zeros((groups, width), np.float32), np.zeros((groups, rows), np.float32)
        return cls(hessian, crossed, *totals, np.zeros(groups))

    def look(self, looks: Iterable[Look]) -> None:
        """Look at its images and add them."""
        for look in looks:
            self.add(*look())
        self._multiply()

    def add(self, read: Array, missed: Array) -> None:
        """Add one image.

        Args:
            read: x at P positions, float32 [groups, P, K].
            missed: d or e there, float32 [groups, P, rows].
        """
        self.total_read += read.sum(axis=1)
        self.total_missed += missed.sum(axis=1)
        self.num_rows += read.shape[1]
        if read.shape[1] >= read.shape[2]:
            own = gram(read)
            np.add(self.hessian, own, out=self.hessian)
            np.add(self.crossed, np.matmul(missed.transpose(0, 2, 1), read), out=self.crossed)
            self.squares += _square(own) - _square(np.einsum("gkk->gk", own))
            return
        self._wait(read, missed)
        if self._num_waiting >= STACK:
            self._multiply()
        # The sum of squares of X^T X is that of X X^T, here the smaller one.
        self.squares += _square(gram(read.transpose(0, 2, 1))) - _square(np.einsum("gpk,gpk->gk", read, read))

    def take_mean(self, mean: Array) -> None:
        """Take d or e from their mean [groups, rows]."""
        self.crossed -= mean[:, :, np.newaxis] * self.total_read[:, np.newaxis]

    def sums(self, weight: Array | None) -> Sums:
        """Return H, and M: `weight` times what was summed, where that was d x^T."""
        return Sums(self.hessian, self.crossed if weight is None else np.matmul(weight, self.crossed))

    def _wait(self, read: Array, missed: Array) -> None:
        """Keep the rows of one image, behind those that wait."""
        count = read.shape[1]
        if not self._waiting or self._num_waiting + count > self._waiting[0].shape[1]:
            self._multiply()
            self._waiting = tuple(np.empty((len(x), STACK + count, x.shape[2]), np.float32) for x in (read, missed))
        rows = slice(self._num_waiting, self._num_waiting + count)
        for kept, new in zip(self._waiting, (read, missed), strict=True):
            kept[:, rows] = new
        self._num_waiting += count

    def _multiply(self) -> None:
        """Add the images that wait."""
        if self._num_waiting:
            read, missed = (kept[:, : self._num_waiting] for kept in self._waiting)
            np.add(self.hessian, gram(read), out=self.hessian)
            np.add(self.crossed, np.matmul(missed.transpose(0, 2, 1), read), out=self.crossed)
            self._num_waiting = 0


def gram(rows: Array) -> Array:
    """Return rows^T rows of each group, float32 [groups, K, K]."""
    if len(rows) == 1:  # a product of two dimensions with itself costs half
        product: Array = (rows[0].T @ rows[0])[np.newaxis]
        return product
    product = np.matmul(rows.transpose(0, 2, 1), rows)
    return product


def _square(products: Array) -> NDArray[np.float64]:
    """Return the sum of squares of each group, [groups]."""
    return np.array([float(np.dot(row, row)) for row in products.reshape(len(products), -1)])


def _shrinkage(hessian: Array, squares: NDArray[np.float64], count: int) -> Array:
    """Return d; 1 where there is one image only, or nothing off the diagonal."""
    off = (_square(hessian) - _square(np.einsum("gkk->gk", hessian))) / count**2
    if count < 2:
        return np.ones(len(off), np.float32)
    noise = np.maximum(squares / count - off, 0.0) / (count - 1)
    shrinkage: Array = np.where(off > 0, np.clip(noise / np.where(off > 0, off, 1.0), 0.0, 1.0), 1.0).astype(np.float32)
    return shrinkage
