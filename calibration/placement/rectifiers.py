"""Tell which nodes cut a tensor at zero: what an unsigned range does to it anyway."""

from __future__ import annotations

from onnx import NodeProto

from exporter.graph.onnx_graph import GraphIndex, array_from_initializer, attribute


def is_rectifier(node: NodeProto, index: GraphIndex) -> bool:
    """Tell whether a node is a Relu, or a Clip from 0 to a constant, as a ReLU6 is, or to nothing.

    Source: ONNX operator Clip: limits are attributes before opset 11 and inputs from then on.
    """
    if node.op_type != "Clip":
        return bool(node.op_type == "Relu")
    high = node.input[2] if len(node.input) > 2 else ""
    return _least(node, index) == 0.0 and (not high or high in index.initializer)


def _least(node: NodeProto, index: GraphIndex) -> float | None:
    """Return a Clip's constant lower limit; None where it has none or computes it."""
    name = node.input[1] if len(node.input) > 1 else ""
    if not name:
        least: float | None = attribute(node, "min")
        return least
    return float(array_from_initializer(index.initializer[name]).reshape(())) if name in index.initializer else None
