"""Tell whether a graph gives logits, or what a Softmax, LogSoftmax or Sigmoid at its end makes of them.

The end is followed backwards through what only moves or types values. Softmax is recognized where it is spelled out as
well: Exp(x) / ReduceSum(Exp(x)), Exp(LogSoftmax(x)), Log(Softmax(x)).
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto

from exporter.graph.onnx_graph import attribute, index_graph, maker_behind, tensor_shapes
from runtimes.metrics.answer_kind import AnswerKind

_MOVING = frozenset(
    {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear", "Dropout"}
)
_KIND_OF_OP = {
    "Softmax": AnswerKind.PROBABILITIES,
    "LogSoftmax": AnswerKind.LOG_PROBABILITIES,
    "Sigmoid": AnswerKind.INDEPENDENT,
}


def output_kind(model: ModelProto) -> AnswerKind:
    """Return the kind of the graph's first output [N, classes]; logits where no end is recognized."""
    makers = index_graph(model.graph).producer
    end = maker_behind(model.graph.output[0].name, makers, _MOVING)
    if end is None:
        return AnswerKind.LOGITS
    if end.op_type in ("Softmax", "LogSoftmax"):
        return _KIND_OF_OP[end.op_type] if _is_over_classes(end, model) else AnswerKind.LOGITS
    return _KIND_OF_OP.get(end.op_type) or _spelled_out(end, makers) or AnswerKind.LOGITS


def ends_in_softmax(graph: GraphProto) -> bool:
    """Tell whether the first output is what a Softmax node gives."""
    end = maker_behind(graph.output[0].name, index_graph(graph).producer, _MOVING)
    return end is not None and end.op_type == "Softmax"


def _is_over_classes(node: NodeProto, model: ModelProto) -> bool:
    """Tell whether a Softmax runs along the one axis that is not 1, or along axis 1 where shapes are not known."""
    shape = tensor_shapes(model).get(node.input[0]) or tensor_shapes(model).get(node.output[0]) or ()
    axis = int(attribute(node, "axis", -1))
    if not shape:
        return axis in (1, -1)
    sizes = [size for place, size in enumerate(shape) if place not in (0, axis % len(shape))]
    return axis % len(shape) != 0 and all(size == 1 for size in sizes)


def _spelled_out(end: NodeProto, makers: Mapping[str, NodeProto]) -> AnswerKind | None:
    before = [maker_behind(name, makers, _MOVING) for name in end.input]
    first = before[0] if before else None
    if first is None:
        return None
    if end.op_type == "Exp" and first.op_type == "LogSoftmax":
        return AnswerKind.PROBABILITIES
    if end.op_type == "Log" and first.op_type == "Softmax":
        return AnswerKind.LOG_PROBABILITIES
    second = before[1] if len(before) > 1 else None
    if end.op_type == "Div" and first.op_type == "Exp" and second is not None and second.op_type == "ReduceSum":
        return AnswerKind.PROBABILITIES if maker_behind(second.input[0], makers, _MOVING) is first else None
    return None
