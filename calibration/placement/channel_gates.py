"""Find gates: values pooled from a whole feature map that then scale it, channel by channel (SE, ECA, SK, ResNeSt).

    x -> global pool -> small layers -> sigmoid, softmax -> Mul with x

Everything between the pool and the Mul stays in float. It holds one value per channel, so INT8 saves no time there,
each Q/DQ would be one more kernel, and an error of the gate scales whole channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from exporter.graph.onnx_graph import GraphIndex, array_from_initializer, attribute, index_graph, tensor_shapes
from exporter.graph.weighted_ops import WEIGHTED_OPS

_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL1", "ReduceL2")
_OF_ONE_INPUT = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice", "ReduceMean", "ReduceSum"})
"""Operators whose inputs behind the first are sizes or axes, not data."""


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates of one graph.

    Attributes:
        operand: Name of each Mul that applies a gate, to the place of the gate among its inputs.
        layers: Names of the Conv, Gemm and MatMul nodes that compute gates.
        pooled: Tensors that hold pooled values only.
    """

    operand: Mapping[str, int]
    layers: frozenset[str]
    pooled: frozenset[str]


def find_gates(model: ModelProto) -> Gates:
    """Return the gates of a float model."""
    index = index_graph(model.graph)
    ranks = {name: len(shape) for name, shape in tensor_shapes(model).items()}
    pooled: set[str] = set()
    for node in model.graph.node:
        if _is_global_pool(node, index, ranks) or _reads_only(node, pooled, index):
            pooled.update(node.output)
    operand: dict[str, int] = {}
    layers: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Mul" or any(name in index.initializer for name in node.input):
            continue
        places = [place for place, name in enumerate(node.input) if name in pooled]
        if len(places) == 1:
            operand[node.name] = places[0]
            layers |= _layers_behind(node.input[places[0]], pooled, index)
    return Gates(operand, frozenset(layers), frozenset(pooled))


def _is_global_pool(node: NodeProto, index: GraphIndex, ranks: Mapping[str, int]) -> bool:
    if node.op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        return True
    if node.op_type not in _REDUCTIONS or ranks.get(node.input[0], 4) != 4:
        return False
    axes = list(attribute(node, "axes", ()))
    if len(node.input) > 1 and node.input[1] in index.initializer:
        axes = array_from_initializer(index.initializer[node.input[1]]).tolist()
    return sorted(axis % 4 for axis in axes) == [2, 3]


def _reads_only(node: NodeProto, pooled: set[str], index: GraphIndex) -> bool:
    """Tell whether every computed input of `node` is pooled, and there is one."""
    data = node.input[:1] if node.op_type in _OF_ONE_INPUT else node.input
    computed = [name for name in data if name and name not in index.initializer]
    return bool(computed) and all(name in pooled for name in computed)


def _layers_behind(gate: str, pooled: set[str], index: GraphIndex) -> set[str]:
    """Return the weighted layers on the way from the pool to `gate`."""
    makers = (index.producer.get(name) for name in tensors_behind(gate, index, lambda name: name in pooled))
    return {maker.name for maker in makers if maker is not None and maker.op_type in WEIGHTED_OPS}


def tensors_behind(tensor: str, index: GraphIndex, counts: Callable[[str], bool]) -> set[str]:
    """Return a tensor and those that it is computed from, as far back as they count."""
    pending, seen = [tensor], {tensor}
    while pending:
        producer = index.producer.get(pending.pop())
        new = [] if producer is None else [name for name in producer.input if counts(name) and name not in seen]
        seen.update(new)
        pending.extend(new)
    return seen
