"""Write the quantized model: Q/DQ pairs on activations, INT8 weights behind a DQ, everything else untouched.

    x -> QuantizeLinear(scale, 0) -> DequantizeLinear(scale, 0) -> Conv / Gemm / shortcut of an Add
    W (int8) -> DequantizeLinear(scale[C], 0[C], axis) -> Conv / Gemm

Scales are float32, zero points explicit INT8 zeros (TensorRT 8.6 wants all three inputs), bias stays float (an INT32
bias does not load in TensorRT), weights are stored as INT8 (a quarter of the file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from calibration.calibration_table import CalibrationTable, TensorRange
from calibration.errors import CalibrationError, PlacementError
from calibration.placement import Placement, QuantizedWeight, place_qdq
from calibration.quantize_weight import QuantizedArray, quantize_weight
from exporter.graph import (
    array_from_initializer,
    copy_model,
    infer_shapes,
    initializer_from_array,
    remove_unused_initializers,
    replace_nodes,
)

ZERO_POINT = "zero_point"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """The quantized model and where its Q/DQ pairs are."""

    model: ModelProto
    placement: Placement


def insert_qdq(model: ModelProto, table: CalibrationTable) -> QuantizedModel:
    """Return `model` with Q/DQ placed by `place_qdq` and ranges from `table`.

    Args:
        model: The folded float32 model that the table was made for.
        table: Ranges of at least the tensors that the placement names.

    Returns:
        The checked Q/DQ copy and its placement.

    Raises:
        PlacementError: If the table lacks a tensor, the model already holds Q/DQ, node names are not unique, or
            the names of the new tensors are taken.
        CalibrationError: If a weight holds NaN or Inf.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise PlacementError("the model already holds Q/DQ nodes; start from the float model")
    placement = place_qdq(model)
    if missing := [name for name in placement.activations if name not in table.ranges]:
        raise PlacementError(
            f"the calibration table lacks {len(missing)} of {len(placement.activations)} tensors, first "
            f"{missing[0]!r}; it was made for another model"
        )
    _check_names_are_free(model.graph, placement)
    result = copy_model(model)
    graph = result.graph
    weight_nodes = [_quantize_initializer(graph, weight) for weight in placement.weights]
    _rewire_activations(graph, placement)
    replace_nodes(graph, [*weight_nodes, *_nodes_with_pairs(graph, placement, table.ranges)])
    remove_unused_initializers(graph)
    typed = infer_shapes(result)
    onnx.checker.check_model(typed, full_check=True)
    return QuantizedModel(typed, placement)


def _check_names_are_free(graph: GraphProto, placement: Placement) -> None:
    """Raise if a tensor already has a name that `_pair`, `_quantize_initializer` or `_zero_points` will give."""
    sources = [*placement.activations, *(weight.name for weight in placement.weights)]
    new = {f"{name}.{suffix}" for name in sources for suffix in ("scale", "quantized", "dequantized")}
    present = {name for node in graph.node for name in (node.name, *node.output)}
    present.update(tensor.name for tensors in (graph.initializer, graph.input) for tensor in tensors)
    zero_points = {name for name in present if name == ZERO_POINT or name.startswith(f"{ZERO_POINT}.")}
    if taken := sorted(new & present | zero_points):
        raise PlacementError(f"the name {taken[0]!r} is needed for Q/DQ but the model uses it already; rename it there")


def _quantize_initializer(graph: GraphProto, weight: QuantizedWeight) -> NodeProto:
    """Replace a float weight by INT8 values and scales, in place; return the DQ node that restores it."""
    tensor = next(tensor for tensor in graph.initializer if tensor.name == weight.name)
    try:
        quantized = quantize_weight(array_from_initializer(tensor), axis=weight.axis)
    except CalibrationError as err:
        raise CalibrationError(f"{weight.name!r}: {err}; check the checkpoint") from err
    tensor.CopyFrom(initializer_from_array(weight.name, quantized.values))
    restored = f"{weight.name}.dequantized"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == weight.name:
                node.input[place] = restored
    return onnx.helper.make_node(
        "DequantizeLinear",
        [weight.name, _add_scales(graph, weight.name, quantized), _zero_points(graph, len(quantized.scale))],
        [restored],
        name=restored,
        axis=weight.axis,
    )


def _add_scales(graph: GraphProto, weight: str, quantized: QuantizedArray) -> str:
    name = f"{weight}.scale"
    graph.initializer.append(initializer_from_array(name, quantized.scale))
    return name


def _zero_points(graph: GraphProto, num_channels: int | None = None) -> str:
    """Return the name of the INT8 zero (scalar, or [C]), added on first use and shared from then on."""
    name = ZERO_POINT if num_channels is None else f"{ZERO_POINT}.{num_channels}"
    if all(tensor.name != name for tensor in graph.initializer):
        shape = () if num_channels is None else (num_channels,)
        graph.initializer.append(initializer_from_array(name, np.zeros(shape, np.int8)))
    return name


def _rewire_activations(graph: GraphProto, placement: Placement) -> None:
    """Let exactly the readers that the placement names read the dequantized copy, in place."""
    nodes = {node.name: node for node in graph.node}
    for tensor, readers in placement.activations.items():
        for reader in readers:
            nodes[reader.node].input[reader.index] = f"{tensor}.dequantized"


def _nodes_with_pairs(graph: GraphProto, placement: Placement, ranges: Mapping[str, TensorRange]) -> list[NodeProto]:
    """Return the node list with each Q/DQ pair right behind the node that makes its tensor."""
    pending = {tensor: _pair(graph, tensor, ranges[tensor]) for tensor in placement.activations}
    nodes: list[NodeProto] = []
    for info in graph.input:
        nodes.extend(pending.pop(info.name, ()))
    for node in graph.node:
        nodes.append(node)
        for output in node.output:
            nodes.extend(pending.pop(output, ()))
    return nodes


def _pair(graph: GraphProto, tensor: str, kept: TensorRange) -> tuple[NodeProto, NodeProto]:
    scale = f"{tensor}.scale"
    graph.initializer.append(initializer_from_array(scale, np.asarray(kept.scale, np.float32)))
    zero_point = _zero_points(graph)
    quantized, restored = f"{tensor}.quantized", f"{tensor}.dequantized"
    return (
        onnx.helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [quantized], name=quantized),
        onnx.helper.make_node("DequantizeLinear", [quantized, scale, zero_point], [restored], name=restored),
    )
