"""Refine a quantized model on images: what knowing the float model's answers can win back, at no cost when it runs.

    bias correction        every layer keeps the mean it has in float        (calibration.refinement.bias_correction)
    rounding               weights are rounded for the layer's output        (calibration.refinement.round_layer)

Layer by layer in graph order, each seeing what the corrected layers before it give (`refinement.layerwise_walk`). Only
constants change: levels of weights by a step or two, biases by a fraction of a step; no node is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from calibration.errors import CalibrationError
from calibration.methods.effort import Effort
from calibration.refinement.bias_correction import bias_correction, channel_means
from calibration.refinement.layer_constants import LayerConstants
from calibration.refinement.layer_hessian import has_rows, weight_from_rows, weight_rows
from calibration.refinement.layerwise_walk import (
    Layer,
    OpenRuntime,
    QuantizedWalk,
    Tensor,
    quantized_layers,
)
from calibration.refinement.round_layer import WIDEST, FloatLayer, is_plain_sum, round_layer
from exporter.graph.onnx_graph import array_from_initializer, copy_model
from exporter.graph.weighted_ops import WEIGHTED_OPS

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
    means: Mapping[str, NDArray[np.float64]],
    *,
    open_runtime: OpenRuntime,
    effort: Effort,
    track: TrackLayers | None = None,
) -> RefinedModel:
    """Return a refined copy of `quantized`.

    Args:
        reference: The float32 model it was made from.
        quantized: Q/DQ model of either dialect.
        images: Batches of preprocessed images, float32 [n, C, H, W].
        means: Name of every quantized layer to the means of the reference's output over the same images, [n, C].
        open_runtime: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        effort: Whether to correct biases, and how to round weights.
        track: Wraps the iteration over the layers, given their number.

    Raises:
        CalibrationError: If there are no images, or the two models do not belong together.
    """
    result = copy_model(quantized)
    constants = LayerConstants(result.graph)
    keeps_zero = _divides_by_features(reference)
    layers = quantized_layers(result)
    if missing := [name for name in layers if images and name not in means]:
        raise CalibrationError(f"quantized layer {missing[0]!r} is not in the float model; the models differ")
    rounds = effort.round_weights
    floats = _float_layers(reference) if rounds else {}
    walk = QuantizedWalk(result, images, open_runtime=open_runtime, with_inputs=rounds, layers=layers)
    known = layers if rounds else ()
    given = _outputs(reference, images, known, open_runtime)
    done: list[LayerRefinement] = []
    for layer in walk if track is None else track(walk, len(walk)):
        name = layer.node.name
        num_rounded, largest = 0, 0.0
        if rounds:
            outputs = next(given)
            if name in floats:
                num_rounded = _round(layer, floats[name], outputs, constants, thorough=effort.thorough)
            del outputs
            walk.compute(layer)
        if effort.correct_biases and not (keeps_zero and not _has_bias(layer)):
            largest = _correct(layer, means[name], constants)
        done.append(LayerRefinement(name, largest, num_rounded))
    return RefinedModel(result, tuple(done), sum(len(batch) for batch in images))


def _outputs(
    reference: ModelProto, images: Sequence[Tensor], layers: Sequence[str], open_runtime: OpenRuntime
) -> Iterator[list[Tensor]]:
    """Yield the reference's outputs of some layers, batch by batch, layer by layer in graph order."""
    if layers:
        walk = QuantizedWalk(reference, images, open_runtime=open_runtime, with_inputs=False, layers=layers)
        yield from (layer.outputs for layer in walk)


def _float_layers(model: ModelProto) -> dict[str, FloatLayer]:
    """Return layer name to its weight and bias, of the layers whose weight is a float constant."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.name: FloatLayer(array_from_initializer(tensors[node.input[1]]), _bias(node, tensors), is_plain_sum(node))
        for node in model.graph.node
        if node.op_type in WEIGHTED_OPS and node.input[1] in tensors
    }


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


def _bias(node: NodeProto, tensors: Mapping[str, TensorProto]) -> NDArray[np.float32] | None:
    """Return the constant bias of a layer; None where it has none."""
    name = node.input[2] if len(node.input) > 2 else ""
    return array_from_initializer(tensors[name]) if name in tensors else None


def _correct(layer: Layer, expected: NDArray[np.float64], constants: LayerConstants) -> float:
    """Correct the layer's bias, in place; return the largest |change|."""
    axis = -1 if layer.node.op_type == "MatMul" else 1
    applied = constants.add_to_bias(layer.node, bias_correction(expected - channel_means(layer.outputs, axis)))
    if applied.in_layer:
        _add(layer.outputs, applied.values, axis)
    return float(np.abs(applied.values).max())


def _add(batches: Sequence[Tensor], values: NDArray[np.float64], axis: int) -> None:
    """Add values[c] to channel c of every batch, in place."""
    for batch in batches:
        shape = [1] * batch.ndim
        shape[axis] = -1
        batch += values.astype(np.float32).reshape(shape)


def _round(
    layer: Layer, known: FloatLayer, outputs: Sequence[Tensor], constants: LayerConstants, *, thorough: bool
) -> int:
    """Round the layer's weight for its output, in place; return how many levels changed."""
    old = constants.weight(layer.node)
    if old is None or not has_rows(layer.node, old.levels.ndim):
        return 0
    rows = weight_rows(layer.node, known.weight)
    if not thorough and rows.shape[2] > WIDEST:
        return 0
    rounded = round_layer(layer.node, known, old.scale.reshape(rows.shape[:2]), layer.inputs, outputs)
    largest = np.abs(old.levels).max()  # of a weight of 7 bits no level may leave them
    levels = np.clip(weight_from_rows(layer.node, rounded, old.levels.shape), -largest, largest)
    constants.set_levels(old.name, levels)
    return int(np.count_nonzero(levels != old.levels))
