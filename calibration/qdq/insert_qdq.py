"""Write the quantized model: Q/DQ pairs on activations, INT8 weights behind a DQ, everything else untouched.

    x -> QuantizeLinear(scale, zero point) -> DequantizeLinear(scale, zero point) -> Conv / Gemm / ...
    W (int8) -> DequantizeLinear(scale[C], 0[C], axis) -> Conv / Gemm
    b (int32) -> DequantizeLinear(scale[C], 0[C], axis 0) -> Conv / Gemm        only for ONNX Runtime

Layers that stay in float between pairs have such a bias there, too, of steps that lose nothing (`float_layers`).

Scales are float32, zero points explicit (TensorRT 8.6 wants all three inputs), weights are stored as INT8 (a quarter
of the file). Which tensors, and with which levels, is the dialect's matter (`methods.dialect`): for TensorRT the
zero point is one INT8 zero and bias stays float (an INT32 bias does not load there).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from calibration.errors import CalibrationError, PlacementError
from calibration.methods.dialect import Dialect
from calibration.methods.quantize_bias import bias_scale, least_weight_scale, quantize_bias
from calibration.methods.quantize_weight import quantize_weight
from calibration.placement.for_tensorrt import Placement, QuantizedBias, QuantizedWeight
from calibration.placement.offset_tensors import offset_tensors
from calibration.placement.place import place
from calibration.qdq.float_layers import guard_float_layers
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from exporter.graph import onnx_graph

ZERO_POINT = "zero_point"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """The quantized model and where its Q/DQ pairs are."""

    model: ModelProto
    placement: Placement


def insert_qdq(model: ModelProto, table: CalibrationTable, *, keep_float: Collection[str] = ()) -> QuantizedModel:
    """Return `model` with Q/DQ where the table's dialect has it, and ranges from `table`.

    Args:
        model: The folded float32 model that the table was made for.
        table: Ranges of at least the tensors that the placement names.
        keep_float: Names of nodes that stay in float; the table of the whole model serves.

    Returns:
        The checked Q/DQ copy and its placement.

    Raises:
        PlacementError: If the table lacks a tensor, the model already holds Q/DQ, node names are not unique, or
            the names of the new tensors are taken, or no node has a name of `keep_float`.
        CalibrationError: If a weight holds NaN or Inf.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise PlacementError("the model already holds Q/DQ nodes; start from the float model")
    placement = place(model, table.dialect, keep_float)
    if missing := [name for name in placement.activations if name not in table.ranges]:
        raise PlacementError(
            f"the calibration table lacks {len(missing)} of {len(placement.activations)} tensors, first "
            f"{missing[0]!r}; it was made for another model"
        )
    _check_dtypes(model, table)
    for group in placement.shared_scales:
        if len({table.ranges[name].scale for name in group}) > 1:
            raise PlacementError(f"the table gives {group[0]!r} and {group[1]!r} different scales; they must share one")
    _check_names_are_free(model.graph, placement)
    ranges = {name: table.ranges[placement.same_range.get(name, name)] for name in placement.activations}
    result = onnx_graph.copy_without_constants(model, {weight.name for weight in placement.weights})
    graph = result.graph
    least = _least_weight_scales(graph, placement, ranges)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [
        _add_quantized(graph, weight, weights[weight.name], table.dialect, least.get(weight.name))
        for weight in placement.weights
    ]
    constants.extend(_quantize_bias(graph, bias, ranges[bias.data].scale) for bias in placement.biases)
    _rewire_activations(graph, placement)
    onnx_graph.replace_nodes(graph, [*constants, *_nodes_with_pairs(graph, placement, ranges)])
    if table.dialect is Dialect.ONNXRUNTIME:
        guard_float_layers(graph)
    onnx_graph.remove_unused_initializers(graph)
    typed = onnx_graph.infer_shapes(result)
    onnx.checker.check_model(typed, full_check=True)
    return QuantizedModel(typed, placement)


def _check_dtypes(model: ModelProto, table: CalibrationTable) -> None:
    """Raise unless every range is of the dialect's kind: one UINT8 tensor and TensorRT refuses the file.

    Where biases can take a zero point (`placement.offset_tensors`), UINT8 is for `offsets.take_offsets` to take away.
    """
    is_for_onnxruntime = table.dialect is Dialect.ONNXRUNTIME
    dtype = "uint8" if is_for_onnxruntime else "int8"
    wrong = [name for name, kept in table.ranges.items() if kept.dtype != dtype]
    if wrong and not is_for_onnxruntime:
        taken = offset_tensors(model, place(model, table.dialect), pads=True)
        wrong = [name for name in wrong if name not in taken]
    if wrong:
        raise CalibrationError(
            f"the table is for {table.dialect.value}, which takes {dtype}, but {wrong[0]!r} is "
            f"{table.ranges[wrong[0]].dtype}; calibrate for this dialect"
        )


def _check_names_are_free(graph: GraphProto, placement: Placement) -> None:
    """Raise if a tensor already has a name that `_pair`, `_add_quantized`, ... will give."""
    sources = [*placement.activations, *(weight.name for weight in placement.weights)]
    sources.extend(bias.name for bias in placement.biases)
    new = {f"{name}.{suffix}" for name in sources for suffix in ("scale", "quantized", "dequantized")}
    new.update(f"{name}.{ZERO_POINT}" for name in sources)
    new.update(bias.name for bias in placement.biases if bias.name != bias.source)
    present = {name for node in graph.node for name in (node.name, *node.output)}
    present.update(tensor.name for tensors in (graph.initializer, graph.input) for tensor in tensors)
    zero_points = {name for name in present if name == ZERO_POINT or name.startswith(f"{ZERO_POINT}.")}
    if taken := sorted(new & present | zero_points):
        raise PlacementError(f"the name {taken[0]!r} is needed for Q/DQ but the model uses it already; rename it there")


def _least_weight_scales(
    graph: GraphProto, placement: Placement, ranges: Mapping[str, TensorRange]
) -> dict[str, NDArray[np.float64]]:
    """Return, per weight, the scales [C] with which the biases of its layers fit into INT32.

    A file for TensorRT keeps its biases in float, but a plain ONNX Runtime session makes them INT32 when it opens it.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    least: dict[str, NDArray[np.float64]] = {}
    for bias, data, weight in _biased_layers(graph, placement):
        values = onnx_graph.array_from_initializer(constants[bias]).reshape(-1)
        try:
            needed = least_weight_scale(values, ranges[data].scale)
        except CalibrationError as err:
            raise CalibrationError(f"{bias!r}: {err}; check the checkpoint") from err
        if not placement.biases:
            needed[values == 0] = 0.0  # nothing to make room for
        least[weight] = np.maximum(least.get(weight, 0.0), needed)
    return least


def _biased_layers(graph: GraphProto, placement: Placement) -> Iterator[tuple[str, str, str]]:
    """Yield bias, data tensor and weight of every quantized layer with a constant bias."""
    if placement.biases:
        yield from ((bias.source, bias.data, bias.weight) for bias in placement.biases)
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {weight.name for weight in placement.weights}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in weights and node.input[0] in placement.activations:
            bias = constants.get(node.input[2]) if len(node.input) > 2 else None
            if bias is not None and bias.data_type == TensorProto.FLOAT:
                yield bias.name, node.input[0], node.input[1]


def _add_quantized(
    graph: GraphProto,
    weight: QuantizedWeight,
    tensor: TensorProto,
    dialect: Dialect,
    least_scale: NDArray[np.float64] | None,
) -> NodeProto:
    """Add a float weight's INT8 values and scales, in place; return the DQ node that restores it."""
    try:
        quantized = quantize_weight(
            onnx_graph.array_from_initializer(tensor), axis=weight.axis, least_scale=least_scale, qmax=weight.qmax
        )
    except CalibrationError as err:
        raise CalibrationError(f"{weight.name!r}: {err}; check the checkpoint") from err
    graph.initializer.append(onnx_graph.initializer_from_array(weight.name, quantized.values))
    onnx_graph.read_instead(graph, weight.name, f"{weight.name}.dequantized")
    num_channels = len(quantized.scale)
    shared = dialect is Dialect.TENSORRT  # ONNX Runtime's precise mode fails where two weights share a zero point
    zero_point = f"{ZERO_POINT}.{num_channels}" if shared else f"{weight.name}.{ZERO_POINT}"
    zeros = np.zeros(num_channels, np.int8)
    return _constant_dq(graph, weight.name, quantized.scale, weight.axis, zero_point=zero_point, zeros=zeros)


def _quantize_bias(graph: GraphProto, bias: QuantizedBias, input_scale: float) -> NodeProto:
    """Add the INT32 values and scales of a bias, in place; return the DQ node that restores it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scale = bias_scale(input_scale, onnx_graph.array_from_initializer(constants[f"{bias.weight}.scale"]))
    values = onnx_graph.initializer_from_array(
        bias.name, quantize_bias(onnx_graph.array_from_initializer(constants[bias.source]), scale)
    )
    if bias.name == bias.source:
        constants[bias.name].CopyFrom(values)
    else:
        graph.initializer.append(values)
    next(node for node in graph.node if node.name == bias.node).input[2] = f"{bias.name}.dequantized"
    zero_point = f"{ZERO_POINT}.int32.{len(scale)}"
    return _constant_dq(graph, bias.name, scale, 0, zero_point=zero_point, zeros=np.zeros(len(scale), np.int32))


def _constant_dq(
    graph: GraphProto, name: str, scale: NDArray[np.float32], axis: int, *, zero_point: str, zeros: NDArray[Any]
) -> NodeProto:
    """Add the scales [C] and zero points [C] of an integer constant; return the DQ node that makes it float again."""
    graph.initializer.append(onnx_graph.initializer_from_array(f"{name}.scale", scale))
    return onnx.helper.make_node(
        "DequantizeLinear",
        [name, f"{name}.scale", _shared_zeros(graph, zero_point, zeros)],
        [f"{name}.dequantized"],
        name=f"{name}.dequantized",
        axis=axis,
    )


def _shared_zeros(graph: GraphProto, name: str, zeros: NDArray[Any]) -> str:
    """Return `name`, added on first use and shared from then on."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(onnx_graph.initializer_from_array(name, zeros))
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
    graph.initializer.append(onnx_graph.initializer_from_array(scale, np.asarray(kept.scale, np.float32)))
    if kept.dtype == "int8":
        zero_point = _shared_zeros(graph, ZERO_POINT, np.zeros((), np.int8))
    else:
        zero_point = f"{tensor}.{ZERO_POINT}"
        graph.initializer.append(onnx_graph.initializer_from_array(zero_point, np.asarray(kept.zero_point, kept.dtype)))
    quantized, restored = f"{tensor}.quantized", f"{tensor}.dequantized"
    return (
        onnx.helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [quantized], name=quantized),
        onnx.helper.make_node("DequantizeLinear", [quantized, scale, zero_point], [restored], name=restored),
    )
