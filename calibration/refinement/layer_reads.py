"""What a layer reads at sampled positions, and what its sum lacks there, image by image.

    x   [K]   what the quantized layer reads at one position, after all roundings before it
    d   [K]   x_float - x, with x_float what the float layer reads there
    e   [O]   W d + (W - V) x: what its sum lacks there, with W its weights and V what they are so far

A layer that is rounded in parts of columns has its x cut anew for every part, which is cheap. Its e is kept: W d is a
product with all columns, and what a part loses is added once.
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
from calibration.refinement.workers import Run, alone

Array = NDArray[np.float32]
ALL = slice(None)

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
            the float layer; called once for each part of the columns and once between two parts.
        num_images: How many images that are.
        center: Mean of x, float32 [groups, K], that x is taken from; None to leave it.
        run: Runs several looks at a time.
    """

    node: NodeProto
    kernel_shape: tuple[int, ...]
    weight: Array
    images: Callable[[], Iterable[tuple[Input, Input]]]
    num_images: int
    center: Array | None = None
    run: Run = alone
    _errors: dict[int, Array] = field(default_factory=dict)
    _sampler: RowSampler = field(init=False)

    def __post_init__(self) -> None:
        """Look up once where the rows lie."""
        self._sampler = RowSampler(self.node, self.kernel_shape, num_images=self.num_images)

    def missed_inputs(self) -> Iterator[Look]:
        """Yield looks at x and d of each image, float32 [groups, P, K] each."""
        return (partial(self._missed_inputs, *pair) for pair in self.images())

    def missed_outputs(self) -> Iterator[Look]:
        """Yield looks at x and W d of each image, float32 [groups, P, K] and [groups, P, O]."""
        return (partial(self._missed_outputs, *pair) for pair in self.images())

    def part(self, columns: slice) -> Iterator[Look]:
        """Yield looks at x of some columns, and e as it is after `lose`, [groups, P, columns] and [groups, P, O]."""
        return (partial(self._part, columns, place, *pair) for place, pair in enumerate(self.images()))

    def lose(self, columns: slice, lost: Array) -> None:
        """Add to e what some columns lost: W - V there, float32 [groups, O, columns]."""

        def take(look: Look) -> None:
            rows, error = look()
            error += np.matmul(rows, lost.transpose(0, 2, 1))

        self.run(partial(take, look) for look in self.part(columns))

    def _missed_inputs(self, read: Input, in_float: Input) -> tuple[Array, Array]:
        rows = self._sampler.rows(read())
        return self._centered(rows, ALL), self._sampler.rows(in_float()) - rows

    def _missed_outputs(self, read: Input, in_float: Input) -> tuple[Array, Array]:
        rows, missed = self._missed_inputs(read, in_float)
        return rows, np.matmul(missed, self.weight.transpose(0, 2, 1))

    def _part(self, columns: slice, place: int, read: Input, in_float: Input) -> tuple[Array, Array]:
        if place in self._errors:
            return self._centered(self._sampler.rows(read(), columns), columns), self._errors[place]
        rows, self._errors[place] = self._missed_outputs(read, in_float)
        return np.ascontiguousarray(rows[:, :, columns]), self._errors[place]

    def _centered(self, rows: Array, columns: slice) -> Array:
        return rows if self.center is None else rows - self.center[:, np.newaxis, columns]
