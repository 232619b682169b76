"""Nodes whose answer depends on chance or on the other pictures of the batch: what is left of training in a file.

    BatchNormalization   with training_mode, or with outputs for running statistics: normalizes by the batch
    Dropout              whose third input, training_mode (since opset 12), is not the constant False, but of ratio 0
    Bernoulli, Random*   chance

Source: ONNX, Operators.md, Dropout-13 and BatchNormalization-15.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from exporter.graph.onnx_graph import STANDARD_DOMAINS, array_from_initializer, attribute

RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def unstable_nodes(graph: GraphProto) -> Iterator[tuple[NodeProto, str]]:
    """Yield every such node, and what it does in words that follow its name."""
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS:
            continue
        if is_batchnorm_in_training(node):
            yield node, "normalizes by the batch, as in training"
        elif node.op_type == "Dropout" and not is_idle_dropout(node, graph):
            yield node, "is a Dropout in training mode, which draws by chance"
        elif node.op_type in RANDOM_OPS:
            yield node, f"draws by chance ({node.op_type})"


def is_batchnorm_in_training(node: NodeProto) -> bool:
    """Tell whether a node is a BatchNormalization of the batch's own statistics."""
    updates = attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1
    return node.op_type == "BatchNormalization" and bool(updates)


def is_idle_dropout(node: NodeProto, graph: GraphProto) -> bool:
    """Tell whether a Dropout surely passes on its input: no training mode, the constant False, or the ratio 0."""
    if len(node.input) < 3 or not node.input[2] or _is_constant_zero(node.input[2], graph):
        return True
    return bool(node.input[1]) and _is_constant_zero(node.input[1], graph)


def _is_constant_zero(name: str, graph: GraphProto) -> bool:
    for tensor in graph.initializer:
        if tensor.name == name:
            return not array_from_initializer(tensor).any() and all(info.name != name for info in graph.input)
    made = next((node for node in graph.node if name in node.output), None)
    if made is None:
        return False
    if made.op_type in ("Identity", "Cast"):
        return _is_constant_zero(made.input[0], graph)
    value = attribute(made, "value") if made.op_type == "Constant" else None
    return value is not None and not array_from_initializer(value).any()
