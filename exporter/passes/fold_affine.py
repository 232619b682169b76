"""Fold per-channel affine maps into weighted layers, on the ONNX graph, in float64.

An affine map is  y = s x + t  with one s and t per channel: BatchNormalization in inference mode,

    s = scale / sqrt(var + eps),   t = B - s mean

a Mul (or Div) by a constant (t = 0), an Add (or Sub) of one (s = 1). Behind a layer  x = W u + b:

    W' = s W,   b' = s b + t                               Conv, Gemm, MatMul followed by its bias Add

and before a layer that pads nothing (a padded zero would have to become t):

    W'[o, i] = W[o, i] s[i],   b'[o] = b[o] + sum_i,k W[o, i, k] t[i]               Conv, Gemm

All of it in float64, rounded once. Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.

A BatchNormalization that cannot go stays one node, its map computed here: scale = s, B = t, mean 0, variance 1,
epsilon 0. One node, because TensorRT imports it as one Scale layer, a pointwise operation that it fuses with the ReLU
and the quantization behind it; Mul and Add would be two layers for the same. Computed, because FP16 cannot hold small
variances (6e-8 is its smallest number), while s and t are of the size of the activations.
Source: onnx-tensorrt, builtin_op_importers.cpp, BatchNormalization; TensorRT documentation, "Layer fusion".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from exporter.errors import WeightsError
from exporter.graph.edited_graph import EditedGraph
from exporter.graph.onnx_graph import attribute, copy_model, pads_by_rule, set_attributes, tensor_shapes
from exporter.graph.unstable_nodes import is_batchnorm_in_training
from exporter.graph.weighted_ops import WEIGHTED_OPS

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FoldReport:
    """Every BatchNormalization in graph order, with its layer or the reason why it stays; `num_other` maps besides."""

    folded: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...]
    num_other: int


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """s and t of one node, float64 [C] or [1] (the same for every channel)."""

    scale: Vector
    shift: Vector


def fold_affine(model: ModelProto) -> tuple[ModelProto, FoldReport]:
    """Return a copy with every legal fold of the module docstring; node names must be unique, names stay.

    Raises:
        WeightsError: If a folded weight is not finite; the message names the layer or the BatchNormalization.
    """
    result = copy_model(model)
    editor = EditedGraph(result.graph, tensor_shapes(model), frozenset(info.name for info in result.graph.input))
    folded: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    num_other = 0
    for node in result.graph.node:
        name = node.name
        affine, reason = _affine_of(node, editor)
        if affine is None:
            if node.op_type == "BatchNormalization":
                kept.append((name, reason))
            continue
        layer, reason = _fold_backwards(node, affine, editor)
        if layer is None and node.op_type == "BatchNormalization":
            layer, reason = _fold_forwards(node, affine, editor, reason)
        if node.op_type != "BatchNormalization":
            num_other += layer is not None
        elif layer is not None:
            folded.append((name, layer))
        else:
            kept.append((name, reason))
            _store_map(node, affine, editor)
    editor.finish()
    del result.graph.value_info[:]
    return result, FoldReport(tuple(folded), tuple(kept), num_other)


def _affine_of(node: NodeProto, editor: EditedGraph) -> tuple[_Affine | None, str]:
    """Return the node's map, or None and why it is none."""
    if node.op_type == "BatchNormalization":
        return _batchnorm_map(node, editor)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None, ""
    constants = [editor.array(name) for name in node.input]
    if sum(array is not None for array in constants) != 1:
        return None, ""
    place = 0 if constants[0] is not None else 1
    if place == 0 and node.op_type in ("Div", "Sub"):  # constant - x, constant / x
        return None, ""
    vector = _per_channel(constants[place], node.input[1 - place], editor)
    if vector is None:
        return None, ""
    if node.op_type == "Div" and not vector.all():
        return None, ""  # x / 0: nothing to fold, and the check after the export tells
    if node.op_type in ("Add", "Sub"):
        return _Affine(np.ones_like(vector), vector if node.op_type == "Add" else -vector), ""
    return _Affine(1 / vector if node.op_type == "Div" else vector, np.zeros_like(vector)), ""


def _batchnorm_map(node: NodeProto, editor: EditedGraph) -> tuple[_Affine | None, str]:
    if is_batchnorm_in_training(node):
        return None, "it is in training mode: it normalizes by the batch that it is given"
    constants = [editor.array(name) for name in node.input[1:5]]
    if any(array is None for array in constants):
        return None, "its statistics are not constants"
    gamma, beta, mean, var = (np.asarray(array, np.float64) for array in constants)
    epsilon = attribute(node, "epsilon", 1e-5)
    if not (var + epsilon > 0).all():  # NaN too
        raise WeightsError(
            f"folding {node.name!r} gives NaN or Inf: its least running variance is {float(var.min()):g} and eps is "
            f"{epsilon:g}: the checkpoint is damaged or was never trained"
        )
    scale = gamma / np.sqrt(var + epsilon)
    return _Affine(scale, beta - scale * mean), ""


def _per_channel(constant: NDArray[Any] | None, data: str, editor: EditedGraph) -> Vector | None:
    """Return a broadcast constant as float64 [C] or [1], if it varies along the channels of `data` only."""
    assert constant is not None
    if constant.size == 1:
        return np.asarray(constant, np.float64).reshape(1)
    behind, permutation = _through_transpose(data, editor)
    layer = _layer_of(behind, editor)
    shape = editor.shapes.get(data)
    if layer is None or (shape is None and layer.op_type != "Gemm"):
        return None
    rank = 2 if shape is None else len(shape)
    padded = (1,) * (rank - constant.ndim) + constant.shape
    axis = 1 if layer.op_type == "Conv" else rank - 1
    axis = list(permutation).index(axis) if permutation else axis
    if len(padded) != rank or any(size != 1 for place, size in enumerate(padded) if place != axis):
        return None
    return np.asarray(constant, np.float64).reshape(-1)


def _through_transpose(tensor: str, editor: EditedGraph) -> tuple[str, tuple[int, ...]]:
    """Return what a Transpose that only this reads transposes, and how; otherwise the tensor and ()."""
    producer = editor.producer.get(tensor)
    if producer is None or producer.op_type != "Transpose" or not _is_private(tensor, editor):
        return tensor, ()
    return producer.input[0], tuple(attribute(producer, "perm", ()))


def _layer_of(tensor: str, editor: EditedGraph) -> NodeProto | None:
    """Return the weighted layer that makes `tensor`, looking through the bias Add of a MatMul."""
    producer = editor.producer.get(tensor)
    if producer is not None and (matmul := _biased_matmul(producer, editor)) is not None:
        return matmul
    return producer if producer is not None and producer.op_type in WEIGHTED_OPS else None


def _biased_matmul(add: NodeProto, editor: EditedGraph) -> NodeProto | None:
    """Return the MatMul whose bias `add` adds, or None."""
    if add.op_type != "Add":
        return None
    for place in (0, 1):
        matmul = editor.producer.get(add.input[place])
        bias = editor.array(add.input[1 - place])
        if matmul is not None and matmul.op_type == "MatMul" and bias is not None and bias.ndim == 1:
            return matmul if _is_private(matmul.output[0], editor) else None
    return None


def _is_private(tensor: str, editor: EditedGraph) -> bool:
    return len(editor.uses.get(tensor, ())) == 1 and tensor not in editor.outputs


def _fold_backwards(node: NodeProto, affine: _Affine, editor: EditedGraph) -> tuple[str | None, str]:
    """Fold into the layer before `node`; return its name, or None and the reason."""
    data = read = _data_of(node, editor)
    if node.op_type != "BatchNormalization":
        data, permutation = _through_transpose(read, editor)
        if data != read and not permutation:
            return None, "the axes of the Transpose before it are not known"
    producer = editor.producer.get(data)
    layer = _layer_of(data, editor)
    if producer is None or layer is None:
        found = "the model's input" if producer is None else f"{producer.op_type} {producer.name!r}"
        return None, f"its input comes from {found}, not from a convolution or linear layer"
    if not _is_private(data, editor):
        return None, f"the output of {producer.name!r} is also read elsewhere"
    weight = editor.array(layer.input[1])
    if weight is None:
        return None, f"the weight of {layer.name!r} is not a float constant"
    channels = weight.shape[_output_axis(layer)]
    if node.op_type == "BatchNormalization" and layer.op_type != "Conv" and len(editor.shapes.get(data, "12")) != 2:
        return None, f"axis 1 of the output of {layer.name!r}, which BatchNormalization takes, is not its channels"
    if affine.scale.size not in (1, channels) or (layer.op_type == "Gemm" and attribute(layer, "alpha", 1.0) != 1.0):
        return None, f"its map does not fit the {channels} channels of {layer.name!r}"
    return _apply(node, affine, layer, producer, editor)


def _data_of(node: NodeProto, editor: EditedGraph) -> str:
    return str(node.input[0] if editor.array(node.input[0]) is None else node.input[1])


def _apply(
    node: NodeProto, affine: _Affine, layer: NodeProto, holder: NodeProto, editor: EditedGraph
) -> tuple[str | None, str]:
    """Write W' = s W and b' = s b + t; `holder` of b is the layer, or the Add behind a MatMul."""
    weight, axis = editor.array(layer.input[1]), _output_axis(layer)
    assert weight is not None  # checked by the caller
    scale = np.broadcast_to(affine.scale, weight.shape[axis])
    shift = np.broadcast_to(affine.shift, weight.shape[axis])
    place = 2 if holder is layer else int(editor.array(holder.input[0]) is None)
    lacks_bias = layer.op_type == "MatMul" and holder is layer and np.any(shift)
    if lacks_bias and node.op_type != "BatchNormalization":
        return None, f"{layer.name!r} has no bias to take the shift"
    bias: NDArray[Any] | None = np.zeros(len(scale))
    if len(holder.input) > place and holder.input[place]:
        bias = editor.array(holder.input[place])
    if bias is None or (layer.op_type == "Gemm" and (bias.size != len(scale) or attribute(layer, "beta", 1.0) != 1.0)):
        return None, f"the bias of {layer.name!r} is not a constant vector"
    view = [1] * weight.ndim
    view[axis] = -1
    editor.rewrite(layer, 1, weight.astype(np.float64) * scale.reshape(view), "weight")
    new_bias = scale * bias.astype(np.float64).reshape(-1) + shift
    if lacks_bias:
        _become_bias(node, new_bias, editor)
        return layer.name, ""
    if layer.op_type != "MatMul" or holder is not layer:
        editor.rewrite(holder, place, new_bias, "bias")
    editor.drop(node, keep=_data_of(node, editor))
    return layer.name, ""


def _become_bias(node: NodeProto, bias: Vector, editor: EditedGraph) -> None:
    """Let a BatchNormalization behind a MatMul, which has no bias of its own, be the Add of one."""
    editor.rewrite(node, 1, bias, "bias")
    for place in range(2, len(node.input)):
        editor.read(node, place, "")
    node.op_type = "Add"
    del node.input[2:], node.attribute[:]


def _output_axis(layer: NodeProto) -> int:
    """Return the output-channel axis of the weight: Conv [O, I, ...], Gemm transB [O, I], else [I, O]."""
    return 0 if layer.op_type == "Conv" or (layer.op_type == "Gemm" and attribute(layer, "transB", 0)) else -1


def _fold_forwards(node: NodeProto, affine: _Affine, editor: EditedGraph, why: str) -> tuple[str | None, str]:
    """Fold a BatchNormalization into every layer that reads it; return their names, or None and the reason."""
    uses = list(editor.uses.get(node.output[0], ()))
    if not uses or node.output[0] in editor.outputs:
        return None, why
    for use in uses:
        weight = editor.array(use.node.input[1]) if use.node.op_type in ("Conv", "Gemm") and use.place == 0 else None
        has_bias = len(use.node.input) > 2 and use.node.input[2]
        if weight is None or (has_bias and editor.array(use.node.input[2]) is None):
            return None, f"{why}, and its output is read by {use.node.op_type} {use.node.name!r}"
        pads = pads_by_rule(use.node) or any(attribute(use.node, "pads", ()))
        if use.node.op_type == "Conv" and pads and np.any(affine.shift):
            return None, f"{why}, and {use.node.name!r}, which reads it, pads with zeros"
        if use.node.op_type == "Gemm" and any(
            attribute(use.node, key, value) != value for key, value in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
        ):
            return None, f"{why}, and {use.node.name!r}, which reads it, scales its input"
    layers = [use.node for use in uses]
    for layer in layers:
        _fold_into_reader(layer, affine, editor)
    editor.drop(node, keep=node.input[0])
    return ", ".join(layer.name for layer in layers), ""


def _fold_into_reader(layer: NodeProto, affine: _Affine, editor: EditedGraph) -> None:
    stored = editor.array(layer.input[1])
    assert stored is not None  # checked by the caller
    weight = stored.astype(np.float64)
    if layer.op_type == "Gemm":
        transposed = bool(attribute(layer, "transB", 0))
        matrix = weight if transposed else weight.T  # [O, I]
        added = matrix @ np.broadcast_to(affine.shift, matrix.shape[1])
        scaled = matrix * affine.scale
        new_weight = scaled if transposed else scaled.T
    else:
        groups = attribute(layer, "group", 1)
        per_group = weight.reshape(groups, -1, *weight.shape[1:])  # [G, O/G, I/G, ...]
        view = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        channels = groups * weight.shape[1]
        scale = np.broadcast_to(affine.scale, channels).reshape(view)
        shift = np.broadcast_to(affine.shift, channels).reshape(view)
        added = (per_group * shift).sum(axis=tuple(range(2, per_group.ndim))).reshape(-1)
        new_weight = (per_group * scale).reshape(weight.shape)
    bias = editor.array(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else None
    editor.rewrite(layer, 1, new_weight, "weight")
    editor.rewrite(layer, 2, added if bias is None else bias.astype(np.float64).reshape(-1) + added, "bias")


def _store_map(node: NodeProto, affine: _Affine, editor: EditedGraph) -> None:
    """Let a BatchNormalization that stays hold s and t themselves."""
    editor.rewrite(node, 1, affine.scale, "weight")
    editor.rewrite(node, 2, affine.shift, "bias")
    editor.rewrite(node, 3, np.zeros_like(affine.scale), "mean")
    editor.rewrite(node, 4, np.ones_like(affine.scale), "variance")
    set_attributes(node, "momentum", "spatial", epsilon=0.0)
