"""A file as the rules see it: its Q and DQ nodes with what they quantize, and the same graph without them.

Without its Q/DQ nodes a quantized graph is the float graph again, node for node, so what finds residual Adds, gates and
blocks in a float model finds them here. Weights are not copied into that graph: only their shapes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from calibration.lint.constants import Constants, find_constants, num_bytes
from calibration.lint.module_names import is_readable, module_names
from exporter.graph.onnx_graph import (
    GraphIndex,
    attribute,
    index_graph,
    initializer_from_array,
    maker_behind,
    node_name,
)
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS, MOVING_OPS

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
INTEGER_LAYERS = frozenset(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"))

_SMALL = 4096
"""Bytes of constants that go into the graph without Q/DQ with their values: axes, shapes."""


class Role(Enum):
    """Role of the tensor that a Q or DQ node handles."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    BIAS = "bias"


@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """One QuantizeLinear or DequantizeLinear node.

    Attributes:
        place: In words: the layer whose output, weight or bias it is.
        data_type: Of the integers, a `TensorProto.DataType`; 0 where the file does not say.
        scale: The scales, or None if they are computed at run time.
        zero_point: The zero points; None if they are computed at run time; an empty array without a third input.
        layer: The first layer with a weight that reads it, data movement between allowed, or None.
    """

    node: NodeProto
    place: str
    role: Role
    data_type: int
    scale: NDArray[Any] | None
    zero_point: NDArray[Any] | None
    layer: NodeProto | None

    @property
    def is_quantize(self) -> bool:
        """Whether it is the Q of a pair."""
        return bool(self.node.op_type == QUANTIZE)

    @property
    def where(self) -> tuple[str, str]:
        """Place of the node in PyTorch's terms, and its name in the file."""
        return self.place, node_name(self.node)

    @property
    def type_name(self) -> str:
        """The integers' type as ONNX calls it, such as `UINT8`."""
        return str(TensorProto.DataType.Name(self.data_type)) if self.data_type else "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedGraph:
    """One file.

    Attributes:
        folder: Where the file lies, for its external data; None for a model in memory.
        quantizers: Its Q and DQ nodes, in graph order.
        names: Per place in the node list, what the node is called in PyTorch's terms.
        float_model: The same graph without Q and DQ; node i of the file is called `str(i)` there.
    """

    model: ModelProto
    folder: Path | None
    index: GraphIndex
    constants: Constants
    quantizers: tuple[Quantizer, ...]
    names: tuple[str, ...]
    float_model: ModelProto

    @property
    def is_quantized(self) -> bool:
        """Whether anything in the file computes or stores integers for speed."""
        return bool(self.quantizers) or any(is_integer(node) for node in self.model.graph.node)

    def name(self, node: NodeProto) -> str:
        """Return what a node is called in PyTorch's terms."""
        place = self.index.position.get(next(filter(None, node.output), ""))
        return self.names[place] if place is not None else node_name(node)

    def where(self, node: NodeProto) -> tuple[str, str]:
        """Return what a node is called in PyTorch's terms, and in the file; one without a name by its output."""
        return self.name(node), node_name(node)

    def node(self, number: str) -> NodeProto:
        """Return the node of the file that is called `number` in `float_model`."""
        return self.model.graph.node[int(number)]

    def dequantizer(self, tensor: str) -> NodeProto | None:
        """Return the DQ that `tensor` comes out of, data movement between allowed, or None."""
        node = maker_behind(tensor, self.index.producer, MOVING_OPS)
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def weighted(self) -> Iterator[NodeProto]:
        """Yield the float operators with a weight operand, constant or computed."""
        return (node for node in self.model.graph.node if node.op_type in ALL_WEIGHTED_OPS and len(node.input) > 1)


def is_integer(node: NodeProto) -> bool:
    """Tell whether a node computes on integers itself."""
    kind = str(node.op_type)
    return kind in INTEGER_LAYERS or kind.startswith("QLinear") or kind == "DynamicQuantizeLinear"


def quantized_graph(model: ModelProto, folder: Path | None = None) -> QuantizedGraph:
    """Return the view of a model; `folder` holds its external data."""
    index = index_graph(model.graph)
    constants = find_constants(model.graph, folder)
    names = tuple(module_names(model.graph, lambda node: _weight_name(node, index, constants)))
    quantizers = tuple(
        _quantizer(node, index, constants, names)
        for node in model.graph.node
        if node.op_type in (QUANTIZE, DEQUANTIZE) and len(node.input) > 1
    )
    return QuantizedGraph(model, folder, index, constants, quantizers, names, _without_pairs(model, index, constants))


def constant_behind(tensor: str, index: GraphIndex, constants: Constants) -> str:
    """Return the constant that `tensor` is, or was before Q, DQ and data movement; "" if it is computed."""
    while tensor not in constants:
        node = index.producer.get(tensor)
        if node is None or node.op_type not in MOVING_OPS | {QUANTIZE, DEQUANTIZE, "Cast"}:
            return ""
        tensor = node.input[0]
    return tensor


def _weight_name(node: NodeProto, index: GraphIndex, constants: Constants) -> str:
    place = {"QLinearConv": 3, "QLinearMatMul": 3}.get(node.op_type, 1)
    return constant_behind(node.input[place], index, constants) if len(node.input) > place else ""


def _quantizer(node: NodeProto, index: GraphIndex, constants: Constants, names: tuple[str, ...]) -> Quantizer:
    data_type = _integer_type(node, index, constants)
    constant = constant_behind(node.input[0], index, constants)
    layer, operand = _reading_layer(node.output[0], index)
    if not constant:
        role = Role.ACTIVATION
    else:
        role = Role.BIAS if data_type == TensorProto.INT32 or operand == 2 else Role.WEIGHT
    has_zero_point = len(node.input) > 2 and node.input[2]
    zero_point = constants.array(node.input[2]) if has_zero_point else np.empty(0, np.int8)
    place = _place(node, role, layer, index, names)
    return Quantizer(node, place, role, data_type, constants.array(node.input[1]), zero_point, layer)


def _place(node: NodeProto, role: Role, layer: NodeProto | None, index: GraphIndex, names: tuple[str, ...]) -> str:
    """Return what a pair stands on: a layer for weights and biases, else the maker of the tensor or its reader."""
    reader = names[index.position[layer.output[0]]] if layer is not None else ""
    if role is not Role.ACTIVATION and reader:
        return reader
    maker = node
    while maker.op_type in (QUANTIZE, DEQUANTIZE):
        source = index.producer.get(maker.input[0])
        if source is None:
            return str(maker.input[0])
        maker = source
    name = names[index.position[next(filter(None, maker.output))]]
    return name if is_readable(name) or not reader else f"input of {reader}"


def _reading_layer(tensor: str, index: GraphIndex) -> tuple[NodeProto | None, int]:
    """Return the first weighted layer that reads `tensor`, and as which input; data movement between allowed."""
    pending, seen = [tensor], {tensor}
    while pending:
        for use in index.uses.get(pending.pop(0), ()):
            if use.node.op_type in ALL_WEIGHTED_OPS:
                return use.node, use.place
            if use.place == 0 and use.node.op_type in MOVING_OPS | {QUANTIZE, DEQUANTIZE, "Cast"}:
                new = [name for name in use.node.output if name and name not in seen]
                seen.update(new)
                pending.extend(new)
    return None, -1


def _integer_type(node: NodeProto, index: GraphIndex, constants: Constants) -> int:
    """Return the type of the integers: the zero point's, else the attribute's, else the data's; UINT8 by default.

    Source: ONNX operator specification, QuantizeLinear-21 and DequantizeLinear-21.
    """
    if len(node.input) > 2 and node.input[2] in constants:
        return constants.data_type(node.input[2])
    if node.op_type == QUANTIZE:
        return int(attribute(node, "output_dtype", 0) or TensorProto.UINT8)
    if node.input[0] in constants:
        return constants.data_type(node.input[0])
    maker = maker_behind(node.input[0], index.producer, MOVING_OPS)
    return _integer_type(maker, index, constants) if maker is not None and maker.op_type == QUANTIZE else 0


def _without_pairs(model: ModelProto, index: GraphIndex, constants: Constants) -> ModelProto:
    """Return the graph with every Q and DQ passed by; nodes are called by their place in the file."""
    alias: dict[str, str] = {}
    result = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph: GraphProto = result.graph
    for place, node in enumerate(model.graph.node):
        if node.op_type in (QUANTIZE, DEQUANTIZE) and node.input:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        elif node.op_type != "Constant":
            kept = graph.node.add(op_type=node.op_type, domain=node.domain, name=str(place))
            kept.input.extend(alias.get(name, name) for name in node.input)
            kept.output.extend(node.output)
            kept.attribute.extend(node.attribute)
    read = {name for node in graph.node for name in node.input}
    for name, tensor in constants.tensors.items():
        if name in read:
            uses = index.uses.get(name, ())
            is_dequantized = any(use.place == 0 and use.node.op_type == DEQUANTIZE for use in uses)
            graph.initializer.append(_as_float(name, tensor, constants, is_dequantized=is_dequantized))
    graph.input.extend(model.graph.input)
    for info in model.graph.output:
        graph.output.add(name=alias.get(info.name, info.name))
    return result


def _as_float(name: str, tensor: TensorProto, constants: Constants, *, is_dequantized: bool) -> TensorProto:
    """Return a constant of the same shape: with its values where they are few, float32 where a DQ made it so."""
    if num_bytes(tensor) <= _SMALL and not is_dequantized:
        values = constants.array(name)
        if values is None:  # its file is missing, which rule I004 tells; only its shape counts here
            values = np.zeros(tuple(tensor.dims), np.int64)
        return initializer_from_array(name, values)
    kind = TensorProto.FLOAT if is_dequantized else tensor.data_type
    return TensorProto(name=name, dims=tensor.dims, data_type=kind)
