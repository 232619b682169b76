"""Softmax, LogSoftmax and Hardmax of opset 12 and older in the form that all opsets read alike.

    Softmax(x, axis = k)  ->  Reshape(Softmax(Flatten(x, k), axis = 1), shape of x)

Up to opset 12 they flatten their input from `axis` on; since 13 they look along one axis. On a matrix both are the
same. onnx's version converter writes this for Softmax and LogSoftmax, with nodes that have no names, and forgets
Hardmax (seen with onnx 1.23).
Source: ONNX, Changelog.md, Softmax-11 and Softmax-13, Hardmax-11 and Hardmax-13.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from exporter.errors import ExportError
from exporter.graph import onnx_graph

_OPS = ("Softmax", "LogSoftmax", "Hardmax")
_LAST_FLATTENING_OPSET = 12


def flatten_softmax(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy with the rewrite of the module docstring; nodes must have unique names.

    Raises:
        ExportError: If the shape of a Hardmax's input cannot be told.
    """
    result = onnx_graph.copy_model(model)
    if onnx_graph.opset_of(model) > _LAST_FLATTENING_OPSET or not any(
        node.op_type in _OPS for node in model.graph.node
    ):
        return onnx_graph.PassResult(result, 0)
    shapes = onnx_graph.tensor_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))
    nodes: list[NodeProto] = []
    count = 0
    for node in result.graph.node:
        if node.op_type not in _OPS:
            nodes.append(node)
            continue
        shape = shapes.get(node.input[0], ())
        axis = int(onnx_graph.attribute(node, "axis", 1))
        axis += len(shape) if axis < 0 else 0
        inner = shape[1:]
        if not shape or not all(isinstance(size, int) for size in inner):
            if node.op_type == "Hardmax":
                raise ExportError(f"Hardmax {node.name!r}: the shape of its input is {list(shape) or 'unknown'}")
            nodes.append(node)  # left to onnx's converter
            continue
        onnx_graph.set_attributes(node, axis=1)
        if len(shape) == 2 and axis == 1:
            nodes.append(node)
            continue
        target = f"{node.name}.shape"
        result.graph.initializer.append(onnx_graph.initializer_from_array(target, np.array([-1, *inner], np.int64)))
        before, after = f"{node.name}.flat", f"{node.name}.flat_result"
        data, output = node.input[0], node.output[0]
        node.input[0], node.output[0] = before, after
        nodes += [
            onnx.helper.make_node("Flatten", [data], [before], name=before, axis=axis),
            node,
            onnx.helper.make_node("Reshape", [after, target], [output], name=f"{node.name}.back"),
        ]
        count += 1
    onnx_graph.replace_nodes(result.graph, nodes)
    return onnx_graph.PassResult(result, count)
