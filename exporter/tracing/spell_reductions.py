"""Spell reductions whose axes OpenVINO does not read as ones whose axes every reader reads.

Up to opset 17 a reduction has its axes in an attribute; only ReduceSum takes them as an input, from 13 on. OpenVINO
2026.4 does not read the attribute of three of them and reduces over all axes, the batch among them
(findings/openvino_reduction_over_all_axes.sh). So, at opset 13 to 17:

    ReduceL1(x, axes)         ->  ReduceSum(Abs(x), axes)
    ReduceLogSum(x, axes)     ->  Log(ReduceSum(x, axes))
    ReduceLogSumExp(x, axes)  ->  Log(ReduceSum(Exp(x - m), axes)) + m, where m = ReduceMax(x, axes)

The maximum is taken out as the operator's own implementations do, so that no exponential leaves float32.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from exporter.graph.onnx_graph import attribute, opset_of, replace_nodes

FIRST_OPSET, LAST_OPSET = 13, 17
"""Opsets in which the attribute is not read; 11, 12 and 18 were seen to be right."""

_SPELLED = ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp")


def spell_reductions(model: ModelProto) -> None:
    """Rewrite the reductions of the module docstring in place, of a model of opset 13 to 17 whose nodes have names."""
    if not FIRST_OPSET <= opset_of(model) <= LAST_OPSET:
        return
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        axes = attribute(node, "axes", None)
        if node.op_type not in _SPELLED or not axes:
            nodes.append(node)
            continue
        constant = f"{node.name}.axes"
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), constant))
        nodes += _spelled(node, list(axes), constant)
    replace_nodes(model.graph, nodes)


def _spelled(node: NodeProto, axes: list[int], constant: str) -> list[NodeProto]:
    """Return what stands for one reduction; `constant` names the initializer of its axes."""
    data, result, keepdims = node.input[0], node.output[0], int(attribute(node, "keepdims", 1))

    def step(op: str, name: str, *inputs: str, output: str = "", **options: object) -> NodeProto:
        full = f"{node.name}.{name}"
        return helper.make_node(op, inputs, [output or full], name=full, **options)

    if node.op_type == "ReduceL1":
        size = step("Abs", "abs", data)
        return [size, step("ReduceSum", "sum", size.output[0], constant, output=result, keepdims=keepdims)]
    if node.op_type == "ReduceLogSum":
        summed = step("ReduceSum", "sum", data, constant, keepdims=keepdims)
        return [summed, step("Log", "log", summed.output[0], output=result)]
    largest = step("ReduceMax", "max", data, axes=axes, keepdims=1)
    less = step("Sub", "less", data, largest.output[0])
    power = step("Exp", "exp", less.output[0])
    summed = step("ReduceSum", "sum", power.output[0], constant, keepdims=keepdims)
    log = step("Log", "log", summed.output[0])
    nodes = [largest, less, power, summed, log]
    added = largest.output[0]
    if not keepdims:
        nodes.append(step("Squeeze", "squeezed", added, constant))
        added = nodes[-1].output[0]
    return [*nodes, step("Add", "sum_of_logs", log.output[0], added, output=result)]
