"""Weights that several layers of a Q/DQ model read: refinement, which rounds for one layer, leaves them as they are."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from exporter.graph.onnx_graph import index_graph
from exporter.graph.weighted_ops import WEIGHTED_OPS


def layers_of_shared_weights(model: ModelProto) -> Mapping[str, tuple[str, ...]]:
    """Return each INT8 weight that more than one layer reads, to the names of these layers in graph order."""
    index = index_graph(model.graph)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        restored = index.producer.get(node.input[1]) if node.op_type in WEIGHTED_OPS else None
        if restored is not None and restored.op_type == "DequantizeLinear" and restored.input[0] in index.initializer:
            found.setdefault(restored.input[0], []).append(node.name)
    return {weight: tuple(layers) for weight, layers in found.items() if len(layers) > 1}
