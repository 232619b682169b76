"""Write GELU as the operators that define it: Gelu itself exists from opset 20 on only.

    x / 2 (1 + erf(x / sqrt 2))                               approximate = "none"
    x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))         approximate = "tanh"

Source: ONNX, Operators.md, Gelu-20. The first is the pattern that PyTorch's exporter has always written and that
TensorRT and ONNX Runtime fuse.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from exporter.graph.onnx_graph import PassResult, attribute, copy_model, initializer_from_array, replace_nodes


def spell_out_gelu(model: ModelProto) -> PassResult:
    """Return a copy without Gelu nodes."""
    result = copy_model(model)
    graph = result.graph
    nodes: list[NodeProto] = []
    count = 0
    for node in graph.node:
        is_gelu = node.op_type == "Gelu" and node.domain in ("", "ai.onnx")
        nodes += _gelu(graph, node) if is_gelu else [node]
        count += is_gelu
    replace_nodes(graph, nodes)
    return PassResult(result, count)


def _gelu(graph: GraphProto, gelu: NodeProto) -> list[NodeProto]:
    x, name, out = gelu.input[0], gelu.name or gelu.output[0], gelu.output[0]

    def constant(word: str, value: float) -> str:
        key = f"gelu.{word}"
        if all(tensor.name != key for tensor in graph.initializer):
            graph.initializer.append(initializer_from_array(key, np.asarray(value, np.float32)))
        return key

    def make(op_type: str, suffix: str, *inputs: str) -> NodeProto:
        target = f"{name}.{suffix}" if suffix else out
        return onnx.helper.make_node(op_type, list(inputs), [target], name=target if suffix else name)

    half, one = constant("half", 0.5), constant("one", 1.0)
    if attribute(gelu, "approximate", b"none") == b"tanh":
        first = [
            make("Mul", "square", x, x),
            make("Mul", "cube", f"{name}.square", x),
            make("Mul", "small", f"{name}.cube", constant("cubic", 0.044715)),
            make("Add", "inner", x, f"{name}.small"),
            make("Mul", "scaled", f"{name}.inner", constant("sqrt_2_over_pi", math.sqrt(2 / math.pi))),
            make("Tanh", "erf", f"{name}.scaled"),
        ]
    else:
        # A division, as PyTorch's exporter has always written it: the pattern that runtimes know.
        first = [make("Div", "scaled", x, constant("sqrt_2", math.sqrt(2))), make("Erf", "erf", f"{name}.scaled")]
    return [
        *first,
        make("Add", "shifted", f"{name}.erf", one),
        make("Mul", "product", x, f"{name}.shifted"),
        make("Mul", "", f"{name}.product", half),
    ]
