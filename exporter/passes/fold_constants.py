"""Compute what depends on constants alone, once, at export: weight standardization, shape arithmetic, transposes.

A node whose inputs are all constants is evaluated by onnx's own reference implementation and its outputs become
initializers. A weight that a runtime computes anew for every image (`StdConv2d` of BiT, a parametrized layer) becomes
a plain weight, which BatchNorm folding and quantization can then use. Source of the operators' meaning:
`onnx.reference.ReferenceEvaluator`.

Left alone: what the reference implementation computes otherwise than the standard's text says
(`findings/onnx_reference_other_than_the_text.sh`), random operators, subgraphs, weights that callers may replace (graph
inputs), and outputs that would make the file grow by more than `MAX_GROWTH_BYTES` (an Expand of one number, say).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from exporter.graph import onnx_graph
from exporter.graph.unstable_nodes import RANDOM_OPS

MAX_GROWTH_BYTES = 1 << 20
"""How much larger than its inputs a computed constant may be."""

_MAX_SIZES = 64
"""Constants of so many numbers may be shapes; larger ones are weights, of which only the shape counts."""

_QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_BOTH_SIDES_OF_13 = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
"""Over all axes from one on before opset 13; the reference implementation takes that axis alone."""

_CONSTANTS = {"value_float": np.float32, "value_int": np.int64, "value_floats": np.float32, "value_ints": np.int64}
"""Attribute of a Constant to its type; strings and sparse tensors stay nodes."""


def fold_constants(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy in which everything computable from constants is an initializer.

    Constant nodes become initializers too, and nodes whose results nobody reads are dropped. `num_changes` counts the
    nodes that went; `skipped` names those left because the file would grow.
    """
    result = onnx_graph.copy_model(model)
    graph = result.graph
    replaceable = {info.name for info in graph.input}
    outputs = {info.name for info in graph.output}
    constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer if t.name not in replaceable}
    opsets = {entry.domain: entry.version for entry in result.opset_import}
    kept: list[NodeProto] = []
    skipped: list[str] = []
    before = len(graph.node)
    for node in graph.node:
        values = None if outputs & set(node.output) else _evaluated(node, constants, opsets, skipped)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            if name:
                constants[name] = onnx_graph.initializer_from_array(name, value)
                graph.initializer.append(constants[name])
    onnx_graph.replace_nodes(graph, kept)
    onnx_graph.remove_dead_nodes(graph)
    return onnx_graph.PassResult(result, before - len(graph.node), tuple(skipped))


def _evaluated(
    node: NodeProto, constants: Mapping[str, TensorProto], opsets: dict[str, int], skipped: list[str]
) -> list[NDArray[Any]] | None:
    """Return the node's outputs, or None where it must stay."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        return _constant_value(node)
    if not all(name in constants for name in node.input if name) or not any(node.input):
        return None
    if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM_OPS | _QUANTIZATION:
        return None
    has_graphs = any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
    if has_graphs or _is_computed_otherwise(node, opsets):
        return None
    inputs = {name: onnx_graph.array_from_initializer(constants[name]) for name in node.input if name}
    most = MAX_GROWTH_BYTES + sum(value.nbytes for value in inputs.values())
    if (predicted := _predicted_bytes(node, inputs, opsets)) > most:
        skipped.append(f"{node.name}: its constant result would have {predicted:,} bytes")
        return None
    values = [np.asarray(value) for value in ReferenceEvaluator(node, opsets=opsets).run(None, inputs)]
    growth = sum(value.nbytes for value in values) - sum(value.nbytes for value in inputs.values())
    if growth > MAX_GROWTH_BYTES:
        skipped.append(f"{node.name}: its constant result would add {growth:,} bytes to the file")
        return None
    return values


def _is_computed_otherwise(node: NodeProto, opsets: Mapping[str, int]) -> bool:
    """Tell whether the reference implementation is wrong about a node, as ONNX Runtime and the text agree."""
    kind = node.op_type
    if kind in _BOTH_SIDES_OF_13:
        return opsets.get("", opsets.get("ai.onnx", 0)) < 13
    if kind == "MaxPool":
        return bool(onnx_graph.attribute(node, "auto_pad", b"NOTSET") == b"SAME_LOWER")
    if kind == "Resize":
        return bool(onnx_graph.attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"align_corners")
    return kind == "LRN" or bool(kind == "LpNormalization" and onnx_graph.attribute(node, "p", 2) == 1)


def _predicted_bytes(node: NodeProto, inputs: Mapping[str, NDArray[Any]], opsets: dict[str, int]) -> int:
    """Return the size of the node's outputs without computing them, 0 where the shapes do not tell.

    A dozen bytes can ask for terabytes (ConstantOfShape, Expand, Tile, Range): to be known before they are allocated.
    """
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    infos = [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in inputs.items()]
    small = [numpy_helper.from_array(value, name) for name, value in inputs.items() if value.size <= _MAX_SIZES]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "one", infos, outputs, small)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        typed = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports), data_prop=True)
    except Exception:  # inference raises unrelated types; what contradicts itself is told when it is evaluated
        return 0
    kinds = [info.type.tensor_type for info in typed.graph.output]
    return sum(
        math.prod(dim.dim_value for dim in kind.shape.dim) * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        for kind in kinds
        if kind.elem_type and all(dim.HasField("dim_value") for dim in kind.shape.dim)
    )


def _constant_value(node: NodeProto) -> list[NDArray[Any]] | None:
    if (tensor := onnx_graph.attribute(node, "value")) is not None:
        return [onnx_graph.array_from_initializer(tensor)]
    for name, dtype in _CONSTANTS.items():
        if (value := onnx_graph.attribute(node, name)) is not None:
            return [np.asarray(value, dtype)]
    return None
