"""Refine a quantized model on images: what one pass beside the float model can win back, at no cost when it runs.

    bias correction        every layer keeps the mean it has in float        (calibration.correct_bias)
    second-order rounding  weights are rounded for the layer's output        (calibration.round_weights)

Layer by layer in graph order, each seeing what the corrected layers before it give (`calibration.paired_walk`). Only
constants change: levels of weights by a step or two, biases by a fraction of a step; no node is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.correct_bias import LayerDifference, bias_correction, layer_difference
from calibration.effort import Effort
from calibration.layer_constants import LayerConstants
from calibration.layer_reads import has_rows, hessians, weight_from_rows, weight_rows
from calibration.paired_walk import Layer, OpenRuntime, PairedWalk, Tensor
from calibration.round_weights import round_by_hessian
from exporter.graph import array_from_initializer, copy_model

TrackLayers = Callable[[Iterable[Layer], int], Iterable[Layer]]


@dataclass(frozen=True, slots=True)
class LayerRefinement:
    """What happened to one layer.

    Attributes:
        name: The layer's node.
        sqnr_before_db: Signal to noise of its output over the images, in dB, all earlier layers refined and this one
            as it was; None where there was no noise.
        sqnr_after_db: The same with this layer refined.
        largest_correction: Largest |change of the bias|, in units of the layer's output; 0 where it has none.
        num_rounded: Weights whose level second-order rounding changed.
    """

    name: str
    sqnr_before_db: float | None
    sqnr_after_db: float | None
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
    track: TrackLayers | None = None,
) -> RefinedModel:
    """Return a refined copy of `quantized`.

    Args:
        reference: The float32 model it was made from.
        quantized: Q/DQ model of either dialect.
        images: Batches of preprocessed images, float32 [n, C, H, W].
        open_runtime: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        effort: Whether to correct biases, and whether to round weights by second-order information.
        track: Wraps the iteration over the layers, given their number.

    Raises:
        CalibrationError: If there are no images, or the two models do not belong together.
    """
    result = copy_model(quantized)
    constants = LayerConstants(result.graph)
    float_weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    walk = PairedWalk(reference, result, images, open_runtime=open_runtime)
    done: list[LayerRefinement] = []
    for layer in walk if track is None else track(walk, len(walk)):
        axis = -1 if layer.node.op_type == "MatMul" else 1
        difference = layer_difference(layer.reference, layer.outputs, axis)
        before, num_rounded, largest = difference.sqnr_db(), 0, 0.0
        if effort.round_weights:
            weight = array_from_initializer(float_weights[layer.float_node.input[1]])
            num_rounded = _round(layer, weight, constants)
            if num_rounded:
                layer.outputs = walk.rerun(layer)
                difference = layer_difference(layer.reference, layer.outputs, axis)
        if effort.correct_biases:
            largest, after = _correct(layer, difference, constants, axis)
        else:
            after = difference.sqnr_db()
        done.append(LayerRefinement(layer.node.name, before, after, largest, num_rounded))
    return RefinedModel(result, tuple(done), sum(len(batch) for batch in images))


def _correct(
    layer: Layer, difference: LayerDifference, constants: LayerConstants, axis: int
) -> tuple[float, float | None]:
    """Correct the layer's bias, in place; return the largest |change| and the SQNR behind it in dB."""
    applied = constants.add_to_bias(layer.node, bias_correction(difference.means))
    if applied.in_layer:
        _add(layer.outputs, applied.values, axis)
    return float(np.abs(applied.values).max()), difference.sqnr_db(applied.values if applied.in_layer else 0.0)


def _add(batches: Sequence[Tensor], values: NDArray[np.float64], axis: int) -> None:
    """Add values[c] to channel c of every batch, in place."""
    for batch in batches:
        shape = [1] * batch.ndim
        shape[axis] = -1
        batch += values.astype(np.float32).reshape(shape)


def _round(layer: Layer, weight: NDArray[np.float32], constants: LayerConstants) -> int:
    """Round the layer's weight by second-order information, in place; return how many levels changed."""
    old = constants.weight(layer.node)
    if old is None or not has_rows(layer.node, old.levels.ndim):
        return 0
    rows = weight_rows(layer.node, weight)
    steps = old.scale.reshape(rows.shape[:2])
    per_group = hessians(layer.node, layer.inputs, old.levels.shape[2:])
    rounded = np.stack([round_by_hessian(*group) for group in zip(rows, steps, per_group, strict=True)])
    levels = weight_from_rows(layer.node, rounded, old.levels.shape)
    constants.set_levels(old.name, levels)
    return int(np.count_nonzero(levels != old.levels))
