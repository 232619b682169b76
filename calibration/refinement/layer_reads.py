"""What a layer reads at sampled positions, and what its sum lacks there, image by image.

x   [K]   what the quantized layer reads at one position, after all roundings before it
d   [K]   x_float - x, with x_float what the float layer reads there
e   [O]   W d: what its sum lacks there, with W its weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.refinement.layer_hessian import RowSampler
from calibration.refinement.layer_statistics import Look

Array = NDArray[np.float32]

Input = Callable[[], Array]
"""Returns what a layer reads of one image: made when it is looked at, so that no more of them are in memory."""


@dataclass(slots=True, eq=False)
class LayerReads:
    """One layer's x with its d or e.

    Attributes:
        node: Conv, Gemm or MatMul for which `has_rows` is true.
        kernel_shape: [kH, kW] of a Conv.
        weight: W, float32 [groups, O, K].
        images: Gives of each image what returns the input of the quantized layer, [C, H, W] (or [..., K]), and that of
            the float layer; called for each part of the columns.
        num_images: How many images that are.
        center: Mean of x, float32 [groups, K], that x is taken from; None to leave it.
    """

    node: NodeProto
    kernel_shape: tuple[int, ...]
    weight: Array
    images: Callable[[], Iterable[tuple[Input, Input]]]
    num_images: int
    center: Array | None = None
    _sampler: RowSampler = field(init=False)

    def __post_init__(self) -> None:
        """Look up once where the rows lie."""
        self._sampler = RowSampler(self.node, self.kernel_shape, num_images=self.num_images)

    def inputs(self, columns: slice) -> Iterator[Look]:
        """Yield looks at x of some columns, float32 [groups, P, columns], and at nothing that is missed."""
        return (partial(self._inputs, columns, read) for read, _ in self.images())

    def missed_inputs(self) -> Iterator[Look]:
        """Yield looks at x and d of each image, float32 [groups, P, K] each."""
        return (partial(self._missed_inputs, *pair) for pair in self.images())

    def missed_outputs(self, rows: slice = slice(None)) -> Iterator[Look]:
        """Yield looks at x and e of each image, float32 [groups, P, K] and [groups, P, O]; or e of some outputs."""
        return (partial(self._missed_outputs, self.weight[:, rows], *pair) for pair in self.images())

    def _inputs(self, columns: slice, read: Input) -> tuple[Array, Array]:
        rows = self._centered(self._sampler.rows(read(), columns), columns)
        return rows, np.empty((*rows.shape[:2], 0), np.float32)

    def _missed_inputs(self, read: Input, in_float: Input) -> tuple[Array, Array]:
        rows = self._sampler.rows(read())
        return self._centered(rows, slice(None)), self._sampler.rows(in_float()) - rows

    def _missed_outputs(self, weight: Array, read: Input, in_float: Input) -> tuple[Array, Array]:
        rows, missed = self._missed_inputs(read, in_float)
        return rows, np.matmul(missed, weight.transpose(0, 2, 1))

    def _centered(self, rows: Array, columns: slice) -> Array:
        return rows if self.center is None else rows - self.center[:, np.newaxis, columns]
