"""Find the cause of a broken block by comparing its constants with the reference's; no images are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from calibration.diagnostics.block_subgraphs import Border
from calibration.diagnostics.recover_channel_scales import LayerConstants
from calibration.methods.dialect import Dialect
from calibration.refinement.layer_hessian import has_rows, weight_rows
from calibration.refinement.subgraph import constant_nodes, nodes_between
from exporter.graph.onnx_graph import all_tensor_types, array_from_initializer, copy_model, initializer_from_array

MIN_COSINE = 0.99
"""Of a weight and its INT8 form: 8 bits per channel leave 0.9999."""

MIN_SIGN_COSINE = 0.8
"""Of the signs of a weight and its INT8 form, where small values become 0; unrelated weights have about 0."""

MAX_BIAS_ERROR = 0.25
"""Of the reference's bias, by length. Bias correction moves that of a convolution by 1 %, of the classifier by 11 %
(measured on the digits ResNet-20 and on a ResNet-18 of random weights)."""

MAX_RATIO = 1.25

MIN_ROW_COSINE, MIN_SHARE_OF_ROWS = 0.95, 0.9
"""Of a weight's channels and their INT8 form: one whose scale is too wide loses levels, and some of its direction."""

MAX_SCALE_RATIO = 2.5
"""Ranges of few images differ from those of many: 0.95 to 1.13 times on the digits (16 against 256); 4 is two bits."""

MIN_SCALE_RATIO = 0.75
"""Names the cause of a block that lost much; no cause for suspicion by itself: clipping may be right."""

Tensor = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ActivationScale:
    """The scale of one quantized activation, and what plain INT8 takes on the same images."""

    tensor: str
    scale: float
    expected: float

    @property
    def ratio(self) -> float:
        """How many times the expected scale it is."""
        return self.scale / self.expected


def activation_scales(
    candidate: ModelProto, honest: ModelProto, borders: Sequence[Border]
) -> dict[str, tuple[ActivationScale, ...]]:
    """Return, by block, the scales of the tensors that both files quantize in it.

    A tensor between two blocks is quantized in the one that reads it.
    """
    scales = [_scales(model) for model in (candidate, honest)]
    constants = constant_nodes(candidate.graph)
    found = {}
    for border in borders:
        nodes = nodes_between(candidate.graph, set(border.inputs), border.outputs, constants)
        read = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
        found[border.name] = tuple(
            ActivationScale(name, scales[0][name], scales[1][name])
            for name in dict.fromkeys(read)
            if name in scales[0] and name in scales[1]
        )
    return found


def dialect_of(model: ModelProto) -> Dialect:
    """Return ONNX Runtime's dialect for a file with UINT8 activations, else TensorRT's."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    points = (node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2)
    return Dialect.ONNXRUNTIME if any(types.get(point) == TensorProto.UINT8 for point in points) else Dialect.TENSORRT


def _scales(model: ModelProto) -> dict[str, float]:
    """Return the step of each activation that is quantized with one scale."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[1] not in constants or node.input[0] in constants:
            continue
        scale = array_from_initializer(constants[node.input[1]])
        if scale.size == 1:
            result[node.input[0]] = float(scale.reshape(()))
    return result


def causes_of(layers: Sequence[LayerConstants], scales: Sequence[ActivationScale]) -> tuple[str, ...]:
    """Return what is wrong, one phrase each; nothing where constants and scales are as they should be."""
    causes: list[str] = []
    for layer in layers:
        causes += _weight_causes(layer)
        causes += _bias_causes(layer)
    for scale in scales:
        seen = f"the scale of {scale.tensor} is {scale.scale:.3g}, {scale.ratio:.2g} times what these images take"
        if scale.ratio > MAX_SCALE_RATIO:
            causes.append(f"{seen}: they use {1 / scale.ratio:.0%} of its levels")
        elif scale.ratio < MIN_SCALE_RATIO:
            causes.append(f"{seen}: larger values are clipped")
    return tuple(causes)


def _weight_causes(layer: LayerConstants) -> list[str]:
    name = layer.node.name
    expected, got = layer.reference[0], layer.candidate[0]
    if not np.any(got):
        return [f"the weight of {name} is all zeros"]
    if (spread := _wrong_channel_scales(layer)) is not None:
        return [
            f"the scales of {name}'s weight (one per channel) are wrong: its channels are {spread[0]:.2g} to "
            f"{spread[1]:.2g} times the reference's"
        ]
    if _cosine(expected, got) < MIN_COSINE:
        for order in _other_orders(expected.shape):
            # Signs only: integers may have been transposed, and their scales per channel not.
            turned = expected.transpose(order)
            if turned.shape == got.shape and _cosine(np.sign(turned), np.sign(got)) > MIN_SIGN_COSINE:
                return [f"the weight of {name} is transposed: its axes are in order {list(order)}"]
        return [f"the weight of {name} is another: cosine {_cosine(expected, got):.3f} with the reference's"]
    ratio = float((expected * got).sum() / np.square(expected).sum())
    if not 1 / MAX_RATIO < ratio < MAX_RATIO:
        return [f"the weight of {name} is {ratio:.2g} times the reference's: its scale is wrong"]
    return []


def _other_orders(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the orders of axes that change a tensor; moving an axis of 1, as of a 1x1 kernel, changes nothing."""
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    return [order for order in permutations(range(len(shape))) if [axis for axis in order if axis in wide] != wide]


def _wrong_channel_scales(layer: LayerConstants) -> tuple[float, float] | None:
    """Return the least and the largest factor of a layer's channels where each is its own multiple of the reference's.

    None where the channels are no multiples (another weight), or all of about the same one.
    """
    if not has_rows(layer.node, layer.reference[0].ndim):
        return None
    expected, got = (weight_rows(layer.node, side) for side in (layer.reference[0], layer.candidate[0]))
    expected, got = (side.reshape(-1, side.shape[-1]) for side in (expected, got))
    products, squares, others = (expected * got).sum(1), np.square(expected).sum(1), np.square(got).sum(1)
    alive = (squares > 0) & (others > 0)
    if alive.sum() < 2:
        return None
    cosines = products[alive] / np.sqrt(squares[alive] * others[alive])
    factors = products[alive] / squares[alive]
    if np.mean(cosines > MIN_ROW_COSINE) < MIN_SHARE_OF_ROWS or factors.min() <= 0:
        return None
    low, high = float(factors.min()), float(factors.max())
    return (low, high) if high / low > MAX_RATIO**2 else None


def without_correction(candidate: ModelProto, layers: Mapping[str, LayerConstants]) -> ModelProto:
    """Return a copy in which biases are the reference's where they differ by no more than a correction."""
    result = copy_model(candidate)
    types = all_tensor_types(candidate)
    for node in result.graph.node:
        layer = layers.get(node.name)
        if layer is None or len(node.input) < 3 or not 0.0 < _bias_error(layer) <= MAX_BIAS_ERROR:
            continue
        bias = layer.reference[1]
        assert bias is not None  # it has an error
        name = f"{node.name}.bias.uncorrected"
        dtype = helper.tensor_dtype_to_np_dtype(types[node.output[0]].tensor_type.elem_type)  # a bias has that of y
        result.graph.initializer.append(initializer_from_array(name, bias.astype(dtype)))
        node.input[2] = name
    return result


def _bias_error(layer: LayerConstants) -> float:
    """Return how far the bias is from the reference's, by length; 0 where the reference has none or zeros."""
    expected, got = layer.reference[1], layer.candidate[1]
    if expected is None or not np.any(expected):
        return 0.0
    return float(np.linalg.norm((0.0 if got is None else got) - expected) / np.linalg.norm(expected))


def _bias_causes(layer: LayerConstants) -> list[str]:
    name, got, error = layer.node.name, layer.candidate[1], _bias_error(layer)
    if not error > MAX_BIAS_ERROR:
        return []
    if got is None or not np.any(got):
        return [f"the bias of {name} is missing"]
    return [f"the bias of {name} is another: it differs by {error:.0%} of its length"]


def _cosine(left: Tensor, right: Tensor) -> float:
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum() / lengths) if lengths else 0.0
