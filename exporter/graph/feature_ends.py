"""Whether a graph ends in features: pooled activations of a residual block, or an embedding of length 1.

A classifier that was cut off leaves [N, C] just as logits are, and a top-1 of features means nothing. Pooled maps alone
do not tell: networks whose classifier is a convolution end so too, but none of those pools a residual sum.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from exporter.graph.onnx_graph import index_graph, maker_behind

_MOVING = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Transpose"})
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean", "ReduceMax"})
_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSwish", "Clip", "Gelu", "Mul", "BatchNormalization"}
)
_NORMS = frozenset({"ReduceL2", "LpNormalization"})


def ends_in_features(model: ModelProto) -> bool:
    """Tell whether the graph's only output is features, as far as its end shows."""
    graph = model.graph
    makers = index_graph(graph).producer
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    end = maker_behind(graph.output[0].name, makers, _MOVING)
    if end is None or len(graph.output) != 1:
        return False
    if end.op_type == "LpNormalization" or (end.op_type == "Div" and _is_norm(end.input[1], makers)):
        return True
    if end.op_type not in _POOLS:
        return False
    block = maker_behind(end.input[0], makers, _MOVING | _ACTIVATIONS)
    return block is not None and block.op_type == "Add" and not constants.intersection(block.input)


def _is_norm(name: str, makers: Mapping[str, NodeProto]) -> bool:
    node = maker_behind(name, makers, {"Expand", "Clip", "Max", "Identity", "Add"})
    return node is not None and node.op_type in _NORMS
