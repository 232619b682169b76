"""Between the bundle's input (NCHW, RGB) and a network made for another: put in front, and folded away again.

    NHWC   input -> Transpose(0, 2, 3, 1) -> the network, whose own Transpose(0, 3, 1, 2) it cancels
    BGR    input -> Gather(axis 1, [2, 1, 0]) -> the network, into whose first convolution it is folded

Gather picks y[c] = x[order[c]]. A convolution sums w[c] y[c] = w[c] x[order[c]], so that w' with w'[order[c]] = w[c]
takes x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from exporter.graph import onnx_graph

_INSIDE = ".inside"


def take_nchw(graph: GraphProto) -> None:
    """Let a graph with one input [N, H, W, C] take [N, C, H, W], in place; the input keeps its name."""
    _put_in_front(graph, "Transpose", "to_nhwc", perm=[0, 2, 3, 1])
    dims = graph.input[0].type.tensor_type.shape.dim
    height, width, channels = (type(dims[0]).FromString(dims[place].SerializeToString()) for place in (1, 2, 3))
    for place, dim in ((1, channels), (2, height), (3, width)):
        dims[place].CopyFrom(dim)


def take_rgb(graph: GraphProto) -> None:
    """Let a graph that takes channels B, G, R on axis 1 take R, G, B, in place."""
    order = f"{graph.input[0].name}.order"
    graph.initializer.append(onnx_graph.initializer_from_array(order, np.array([2, 1, 0], np.int64)))
    _put_in_front(graph, "Gather", "to_bgr", order, axis=1)


def _put_in_front(graph: GraphProto, op_type: str, word: str, *constants: str, **attributes: Any) -> None:
    """Let what reads the one input read what a new node, called `word`, makes of it, in place."""
    (info,) = graph.input
    inside: str = info.name + _INSIDE
    taken = {name for node in graph.node for name in node.output}
    while inside in taken:
        inside += _INSIDE
    onnx_graph.read_instead(graph, info.name, inside)
    node = onnx.helper.make_node(op_type, [info.name, *constants], [inside], name=f"{info.name}.{word}", **attributes)
    onnx_graph.replace_nodes(graph, [node, *graph.node])


def fold_input_layout(model: ModelProto) -> ModelProto:
    """Return a copy without transposes that cancel each other, the input's channel order folded into convolutions.

    A Gather whose readers are not all plain convolutions (or whose weights others read, too) stays: it is right as it
    is, and one small operation.
    """
    result = onnx_graph.copy_model(model)
    _cancel_transposes(result.graph)
    _fold_orders(result.graph)
    onnx_graph.remove_dead_nodes(result.graph)
    return result


def _cancel_transposes(graph: GraphProto) -> None:
    index = onnx_graph.index_graph(graph)
    for node in graph.node:
        before = index.producer.get(node.input[0]) if node.op_type == "Transpose" else None
        if before is None or before.op_type != "Transpose" or node.output[0] in index.outputs:
            continue
        first, second = (list(onnx_graph.attribute(step, "perm", [])) for step in (before, node))
        if first and len(first) == len(second) and [first[axis] for axis in second] == list(range(len(first))):
            onnx_graph.read_instead(graph, node.output[0], before.input[0])


def _fold_orders(graph: GraphProto) -> None:
    inputs = {info.name for info in graph.input}
    for node in list(graph.node):
        if node.op_type != "Gather" or onnx_graph.attribute(node, "axis", 0) != 1 or node.input[0] not in inputs:
            continue
        index = onnx_graph.index_graph(graph)
        order = index.initializer.get(node.input[1])
        readers = [reader for reader in graph.node if node.output[0] in reader.input]
        if order is None or not readers:
            continue
        places = onnx_graph.array_from_initializer(order).reshape(-1)
        if sorted(places.tolist()) != list(range(len(places))):
            continue
        if all(_can_take(graph, reader, node, len(places)) for reader in readers):
            for reader in readers:
                _reorder(graph, reader, places)
                reader.input[0] = node.input[0]


def _can_take(graph: GraphProto, reader: NodeProto, gather: NodeProto, channels: int) -> bool:
    data, *others = reader.input
    if reader.op_type != "Conv" or data != gather.output[0] or gather.output[0] in others:
        return False
    weight = onnx_graph.index_graph(graph).initializer.get(reader.input[1])
    only_reader = sum(reader.input[1] in node.input for node in graph.node) == 1
    is_plain = onnx_graph.attribute(reader, "group", 1) == 1 and only_reader
    return is_plain and weight is not None and weight.dims[1] == channels


def _reorder(graph: GraphProto, convolution: NodeProto, places: NDArray[np.int64]) -> None:
    weight = onnx_graph.index_graph(graph).initializer[convolution.input[1]]
    old = onnx_graph.array_from_initializer(weight)
    new = np.empty_like(old)
    new[:, places] = old
    weight.CopyFrom(onnx_graph.initializer_from_array(weight.name, new))
