"""Type a model FP16, with float32 inputs and outputs, for strongly typed networks (TensorRT 11, TensorRT-RTX).

TensorRT 11 takes precision from the graph alone. So every float32 constant becomes float16, one Cast follows each
float32 graph input and one precedes each float32 graph output; the nodes between keep their order, which is
topological. Rounding is IEEE round-half-to-even (`numpy.ndarray.astype`).

Sums of squares stay in float32 between two Casts: over a feature map of 56 x 56 they pass 65504, where FP16 ends, at a
root mean square of 4.6 already (ConvNeXt V2's global response normalization).

ONNX Runtime's own converter (`onnxruntime.transformers.float16`) was not used: it appends its Casts at the end (the
checker then refuses the order) and replaces small weights by a larger number without saying so.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.errors import WeightsError
from exporter.graph.onnx_graph import (
    PassResult,
    array_from_initializer,
    attribute,
    copy_model,
    infer_shapes,
    initializer_from_array,
    replace_nodes,
)

FLOAT16_MAX = 65504.0
"""Largest finite half-precision number. Source: IEEE 754-2008, binary16."""


_KEPT_FLOAT32 = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"})


def float16_from_float32(model: ModelProto) -> PassResult:
    """Return a copy typed FP16 with float32 inputs and outputs.

    Args:
        model: A float32 model without Q/DQ nodes.

    Returns:
        The typed copy, type-checked; `num_changes` counts converted constants.

    Raises:
        WeightsError: If a constant lies outside half precision; the message names it and its largest value.
        ValueError: If the model already holds Q/DQ nodes.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ValueError("float16_from_float32 takes a model without Q/DQ nodes")
    return typed_float16(model)


def typed_float16(model: ModelProto, *, kept: Collection[str] = ()) -> PassResult:
    """Do `float16_from_float32` for any model: float32 scales of Q/DQ nodes become FP16 like every other constant.

    Args:
        model: The model.
        kept: Names of nodes that stay float32, with the constants that they read; none of their tensors is one of the
            other nodes' (`exporter.passes.float32_layers`).
    """
    result = copy_model(model)
    graph = result.graph
    num_changes = _convert_constants(graph, kept)
    casts_in = [cast for info in graph.input if _is_float32(info) for cast in _cast_input(graph, info.name, kept)]
    casts_out = [_cast_output(graph, info.name) for info in graph.output if _is_float32(info)]
    nodes = [piece for node in graph.node for piece in _kept_float32(node)]
    replace_nodes(graph, [*casts_in, *nodes, *casts_out])
    typed = infer_shapes(result)
    onnx.checker.check_model(typed, full_check=True)
    return PassResult(typed, num_changes)


def _is_float32(info: onnx.ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.elem_type == TensorProto.FLOAT)


def _convert_constants(graph: GraphProto, kept: Collection[str]) -> int:
    """Convert float32 initializers and Constant nodes in place; return how many."""
    in_float32 = {name for node in graph.node if node.name in kept for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name not in in_float32]
    tensors += [entry.t for node in graph.node for entry in node.attribute if entry.HasField("t")]
    converted = [tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT]
    for tensor in converted:
        array = array_from_initializer(tensor)
        largest = float(abs(array).max(initial=0.0))
        if not largest <= FLOAT16_MAX:
            raise WeightsError(
                f"{tensor.name!r} holds {largest:g}, more than FP16 can ({FLOAT16_MAX:g}); "
                "export without --fp16 or rescale the layer"
            )
        tensor.CopyFrom(initializer_from_array(tensor.name, array.astype("float16")))
    return len(converted)


def _kept_float32(node: NodeProto) -> list[NodeProto]:
    """Return the node, between Casts to float32 and back where FP16 would overflow inside it."""
    if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT:
        node.attribute[0].i = TensorProto.FLOAT16  # its readers are typed FP16 now
    if node.op_type not in _KEPT_FLOAT32:
        return [node]
    data, result = node.input[0], node.output[0]
    wide, back = f"{node.name}.input.float32", f"{node.name}.float32"
    node.input[0], node.output[0] = wide, back
    return [
        onnx.helper.make_node("Cast", [data], [wide], name=wide, to=TensorProto.FLOAT),
        node,
        onnx.helper.make_node("Cast", [back], [result], name=back, to=TensorProto.FLOAT16),
    ]


def _cast_input(graph: GraphProto, name: str, kept: Collection[str]) -> list[NodeProto]:
    """Redirect the readers of graph input `name` to its FP16 copy; return the Cast, if any reads it."""
    half, is_read = f"{name}.float16", False
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name and node.name not in kept:
                node.input[place], is_read = half, True
    if not is_read:
        return []
    cast = onnx.helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16)
    return [cast]


def _cast_output(graph: GraphProto, name: str) -> NodeProto:
    """Let the producer of graph output `name` write an FP16 tensor; return the Cast back."""
    half = f"{name}.float16"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, used in enumerate(names):
                if used == name:
                    names[place] = half
    return onnx.helper.make_node("Cast", [half], [name], name=f"{name}.float32", to=TensorProto.FLOAT)
