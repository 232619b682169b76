"""Refine a quantized model on images: what knowing the float model's answers can win back, at no cost when it runs.

    bias correction        every layer keeps the mean it has in float        (calibration.refinement.bias_correction)
    rounding               weights are rounded for the layer's output        (calibration.refinement.round_layer)

Layer by layer in graph order, each seeing what the corrected layers before it give (`refinement.layerwise_walk`). Only
constants change: levels of weights by a step or two, biases by a fraction of a step; no node is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from calibration.errors import CalibrationError
from calibration.methods.effort import Effort
from calibration.refinement.bias_correction import bias_correction, channel_means
from calibration.refinement.layer_constants import LayerConstants
from calibration.refinement.layer_hessian import has_rows, mean_rows, weight_from_rows, weight_rows
from calibration.refinement.layerwise_walk import Layer, LayerwiseWalk, OpenRuntime, Tensor, quantized_layers
from calibration.refinement.round_layer import SELDOM_FITTED, WIDEST, round_layer
from calibration.refinement.workers import Run, alone, workers
from exporter.graph.onnx_graph import array_from_initializer
from runtimes.machine.free_memory import give_back_free_memory

FEW_COLUMNS = 256
"""Layers of fewer columns are rounded in one thread: others would take longer to begin than to work."""

MANY = 2**20
"""Values in the sums of a layer, 4 MB, that memory is tidied up for."""

TrackLayers = Callable[[Iterable[Layer], int], Iterable[Layer]]


@dataclass(frozen=True, slots=True)
class LayerRefinement:
    """Changes made to one layer.

    Attributes:
        name: The layer's node.
        largest_correction: Largest |change of the bias|, in units of the layer's output; 0 where it has none.
        num_rounded: Weights whose level second-order rounding changed.
    """

    name: str
    largest_correction: float
    num_rounded: int


@dataclass(frozen=True, slots=True, eq=False)
class RefinedModel:
    """The refined Q/DQ model and what was done, layer by layer in graph order."""

    model: ModelProto
    layers: tuple[LayerRefinement, ...]
    num_images: int


def refine(
    reference: ModelProto,
    quantized: ModelProto,
    images: Sequence[Tensor],
    *,
    open_runtime: OpenRuntime,
    effort: Effort,
    counts: Mapping[str, int] | None = None,
    track: TrackLayers | None = None,
    also_thorough: bool = False,
) -> tuple[RefinedModel, RefinedModel | None]:
    """Refine `quantized`; return it, and on demand a copy whose layers of any width are rounded.

    Both share the way to the first layer that only the second one rounds; behind it, too, the levels of layers of
    many columns: they hang on what the layer reads, which differs between the two by a little noise, hardly on what it
    misses.

    Args:
        reference: The float32 model it was made from.
        quantized: Q/DQ model of either dialect; edited in place.
        images: Batches of preprocessed images, float32 [n, C, H, W].
        open_runtime: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        effort: Whether to correct biases, and to round weights.
        counts: Name of a layer to how many of the images it is refined on; all by default.
        track: Wraps the iteration over the layers, given their number.
        also_thorough: Whether to return the second copy too; None where no layer is that wide.

    Raises:
        CalibrationError: If there are no images, or the two models do not belong together.
    """
    layers = quantized_layers(quantized)
    in_reference = {node.name for node in reference.graph.node}
    if missing := [name for name in layers if name not in in_reference]:
        raise CalibrationError(f"quantized layer {missing[0]!r} is not in the float model; the models differ")
    walk, walk_in_float = (
        LayerwiseWalk(model, images, open_runtime=open_runtime, layers=layers, counts=counts)
        for model in (quantized, reference)
    )
    floats, tensors = LayerConstants(reference.graph), {tensor.name: tensor for tensor in reference.graph.initializer}
    first, second = _Copy(walk, LayerConstants(walk.model.graph)), None
    layers_of_second: Iterator[Layer] = iter(())
    with workers() as run:
        job = _Job(effort, walk_in_float, floats, tensors, _divides_by_features(reference), run)
        for layer, in_float in zip(walk if track is None else track(walk, len(walk)), walk_in_float, strict=True):
            pair = job.pair(layer, in_float, first.constants)
            if also_thorough and second is None and pair.columns > WIDEST:
                fork = walk.fork()
                second = _Copy(fork, LayerConstants(fork.model.graph), True, first, list(first.done))
                layers_of_second = iter(fork)
            job.refine_layer(first, pair)
            if second is not None:
                job.refine_layer(second, replace(pair, layer=next(layers_of_second)))
    count = sum(map(len, images))
    refined = RefinedModel(walk.model, tuple(first.done), count)
    return refined, None if second is None else RefinedModel(second.walk.model, tuple(second.done), count)


@dataclass(slots=True, eq=False)
class _Copy:
    """A refined copy in the making.

    Attributes:
        walk: The way through it.
        constants: Of its model.
        thorough: Whether layers of any width are rounded.
        beside: The copy that goes ahead of this one, layer by layer.
        done: What was done so far.
    """

    walk: LayerwiseWalk
    constants: LayerConstants
    thorough: bool = False
    beside: _Copy | None = None
    done: list[LayerRefinement] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A layer in the quantized and in the float model.

    Attributes:
        layer: Quantized.
        in_float: Not.
        columns: How many values it reads for each it gives; 0 where it is not rounded.
        means: Of what it gives in float, float64 [num_images, O]; None where no bias is corrected.
    """

    layer: Layer
    in_float: Layer
    columns: int
    means: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What refining each layer takes.

    Attributes:
        effort: See `refine`.
        walk_in_float: Through the float model.
        floats: The float model's constants.
        tensors: They, by name.
        keeps_zero: Whether a layer without bias gets none.
        run: Runs parts of the work at a time.
    """

    effort: Effort
    walk_in_float: LayerwiseWalk
    floats: LayerConstants
    tensors: Mapping[str, TensorProto]
    keeps_zero: bool
    run: Run

    def pair(self, layer: Layer, in_float: Layer, constants: LayerConstants) -> _Pair:
        """Return a layer beside itself in float; `constants` are the quantized model's."""
        means = self._means_in_float(in_float) if self.effort.correct_biases else None
        return _Pair(layer, in_float, _num_columns(layer.node, constants), means)

    def refine_layer(self, copy: _Copy, pair: _Pair) -> None:
        """Round a layer's weight and correct its bias, in place."""
        layer, columns = pair.layer, pair.columns
        num_rounded, largest = 0, 0.0
        corrects = self.effort.correct_biases and not (self.keeps_zero and not _has_bias(layer))
        weight = copy.constants.weight(layer.node)
        means_read = _means_read(layer, weight.levels.shape, self.run) if corrects and weight is not None else None
        if copy.beside is not None and SELDOM_FITTED < columns <= WIDEST:
            num_rounded = _take_levels(layer.node, copy.beside, copy)
        elif self.effort.round_weights and (copy.thorough or columns <= WIDEST):
            num_rounded = self._round(pair, copy.constants, means_read)
        if corrects and pair.means is not None:
            found = _means(layer, means_read, copy)
            wanted = bias_correction(pair.means - found)
            largest = float(np.abs(copy.constants.add_to_bias(layer.node, wanted)).max())
        copy.done.append(LayerRefinement(layer.node.name, largest, num_rounded))

    def _means_in_float(self, layer: Layer) -> NDArray[np.float64]:
        """Return the mean over positions of each channel that a float layer gives, [num_images, O]."""
        node, stored = layer.node, self.tensors.get(layer.node.input[1])
        weight = None if stored is None else array_from_initializer(stored)
        read = None if weight is None else _means_read(layer, weight.shape, self.run)
        if weight is not None and read is not None:
            rows = weight_rows(node, weight).astype(np.float64)
            bias = self.floats.bias(node, rows.shape[0] * rows.shape[1])
            if bias is not None:
                return _answer(rows, read) + bias
        return _means_of_outputs(layer, self.walk_in_float)

    def _round(self, pair: _Pair, constants: LayerConstants, means_read: NDArray[np.float64] | None) -> int:
        """Round the layer's weight for its output, in place; return how many levels changed.

        Args:
            pair: The layer.
            constants: Of the quantized model.
            means_read: What the layer reads, [num_images, groups, K], where its bias is corrected afterwards.
        """
        layer, in_float = pair.layer, pair.in_float
        old, stored = constants.weight(layer.node), self.tensors.get(in_float.node.input[1])
        if old is None or stored is None or not has_rows(layer.node, old.levels.ndim):
            return 0
        weight = array_from_initializer(stored)
        rows = weight_rows(layer.node, weight)
        if rows.shape[2] * (rows.shape[1] + rows.shape[2]) > MANY:
            give_back_free_memory()  # what the runs of small pieces left cannot hold what follows
        center = None
        if means_read is not None and len(means_read) > 1 and constants.takes_bias(layer.node, len(old.scale)):
            center = means_read.mean(axis=0).astype(np.float32)
        rounded = round_layer(
            layer.node,
            weight,
            old.scale.reshape(rows.shape[:2]),
            lambda: zip(layer.images(), in_float.images(), strict=True),
            num_images=sum(map(len, layer.stored)),
            center=center,
            run=self.run if rows.shape[2] >= FEW_COLUMNS else alone,
        )
        largest = np.abs(old.levels).max()  # of a weight of 7 bits no level may leave them
        levels = np.clip(weight_from_rows(layer.node, rounded, old.levels.shape), -largest, largest)
        constants.set_levels(old.name, levels)
        return int(np.count_nonzero(levels != old.levels))


def wide_layers(quantized: ModelProto) -> tuple[str, ...]:
    """Return the names of the layers that only a thorough refinement rounds, in graph order."""
    constants, names = LayerConstants(quantized.graph), set(quantized_layers(quantized))
    return tuple(
        node.name for node in quantized.graph.node if node.name in names and _num_columns(node, constants) > WIDEST
    )


def _num_columns(node: NodeProto, constants: LayerConstants) -> int:
    """Return how many values a layer reads for each it gives; 0 for a layer that is not rounded."""
    weight = constants.weight(node)
    if weight is None or not has_rows(node, weight.levels.ndim):
        return 0
    return int(weight_rows(node, weight.levels).shape[2])


def _take_levels(node: NodeProto, first: _Copy, second: _Copy) -> int:
    """Give a layer of the second copy the levels it has in the first one; return how many were rounded there."""
    if weight := first.constants.weight(node):
        second.constants.set_levels(weight.name, weight.levels)
    return first.done[-1].num_rounded


def _divides_by_features(model: ModelProto) -> bool:
    """Tell whether the network divides by what it computes, as `x / x.norm()`.

    There a layer without bias gets none: it gives zeros for zeros, which such a quotient would blow up if they were
    not zeros any more (a black frame through F.normalize: any direction instead of none).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type in ("Reciprocal", "LpNormalization") or (node.op_type == "Div" and node.input[1] not in constants)
        for node in model.graph.node
    )


def _has_bias(layer: Layer) -> bool:
    return len(layer.node.input) > 2 and bool(layer.node.input[2])


def _means_read(layer: Layer, weight_shape: Sequence[int], run: Run) -> NDArray[np.float64] | None:
    """Return the mean over positions of what the layer reads of each image, [num_images, groups, K]."""
    if not has_rows(layer.node, len(weight_shape)):
        return None

    def means(images: Iterable[Callable[[], Tensor]]) -> list[NDArray[np.float64]]:
        return [mean_rows(layer.node, image()[np.newaxis], weight_shape[2:]) for image in images]

    images = list(layer.images())
    half = len(images) // 2
    parts = run(partial(means, part) for part in (images[:half], images[half:]))
    return np.concatenate([*chain.from_iterable(parts)])


def _means(layer: Layer, means_read: NDArray[np.float64] | None, copy: _Copy) -> NDArray[np.float64]:
    """Return the mean over positions of each channel the quantized layer gives, [num_images, O]."""
    weight = copy.constants.weight(layer.node)
    bias = None if weight is None else copy.constants.bias(layer.node, len(weight.scale))
    if weight is None or bias is None or means_read is None:
        return _means_of_outputs(layer, copy.walk)
    rows = weight_rows(layer.node, weight.levels).astype(np.float64)
    rows *= weight.scale.reshape(*rows.shape[:2], 1)
    return _answer(rows, means_read) + bias


def _answer(rows: NDArray[np.float64], means_read: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of a layer's answers, [num_images, O]: its answer to the mean of what it reads; no bias."""
    means: NDArray[np.float64] = np.einsum("gok,ngk->ngo", rows, means_read, optimize=True)
    return means.reshape(len(means_read), -1)


def _means_of_outputs(layer: Layer, walk: LayerwiseWalk) -> NDArray[np.float64]:
    """Return the mean over positions of each channel the layer gives, [num_images, O], for which it is run."""
    return channel_means(walk.outputs(layer), -1 if layer.node.op_type == "MatMul" else 1)
