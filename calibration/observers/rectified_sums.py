"""What a rectifier behind an Add lets pass of the tensors that are added.

    y = relu(a + b)

Where a lies below -b, y is 0 whatever a is. So the range of a need not hold it there, only some value up to -b, at best
0. With y - b, which is a where the sum passes and -b where not, such a value is

    y - b, moved into the range between 0 and a

Such values reach less far, so that steps become narrower at no cost. Of a Clip from 0 to 6, as a ReLU6 is, the same
holds at both ends. ONNX Runtime's dialect quantizes all that is added; TensorRT's the shortcut alone.

Source: the equation. docs/int8.md has what it gains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import ModelProto, NodeProto, TypeProto, helper

from calibration.placement.rectifiers import is_rectifier
from exporter.graph.onnx_graph import GraphIndex, complete_types, index_graph, replace_nodes


def keep_what_passes(model: ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """Let tensors that are added before a rectifier hold of a what passes, in place; the answers are the same.

    The Add goes on to read the whole tensor, which has another name then.

    Args:
        model: Float32 model.
        tensors: Names of those that may change. What something else reads too is left as it is.

    Returns:
        Tensor to the name of the whole one.
    """
    index = index_graph(model.graph)
    types = complete_types(model, tensors)
    whole: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        add = index.producer.get(node.input[0]) if node.input and is_rectifier(node, index) else None
        if add is None or add.op_type != "Add" or not _is_read_once(add.output[0], index):
            continue
        first, second = add.input
        cut = [
            (name, other)
            for name, other in ((first, second), (second, first))
            if name in tensors and _is_read_once(name, index) and _are_alike(name, other, types)
        ]
        for name, _ in cut:
            whole[name] = f"calibration.{name}.whole"
            maker = index.producer[name]
            maker.output[list(maker.output).index(name)] = whole[name]
        add.input[0], add.input[1] = whole.get(first, first), whole.get(second, second)
        for name, other in cut:
            nodes += _what_passes(name, whole[name], whole.get(other, other), node)
    replace_nodes(model.graph, nodes)
    return whole


def _what_passes(name: str, whole: str, other: str, rectifier: NodeProto) -> list[NodeProto]:
    """Return nodes that make `name`: of `whole`, added to `other`, what a rectifier lets pass."""
    steps = [
        ("wanted", "Sub", (rectifier.output[0], other)),
        ("above", "Relu", (whole,)),
        ("passes", "Min", ("wanted", "above")),
    ]
    if rectifier.op_type == "Clip":  # which can end above, too
        steps += [("below", "Sub", (whole, "above")), ("passes above", "Max", ("passes", "below"))]
    made = {step: f"calibration.{name}.{step}" for step, _, _ in steps}
    made[steps[-1][0]] = name
    return [
        helper.make_node(operator, [made.get(read, read) for read in reads], [made[step]], f"calibration.{name}.{step}")
        for step, operator, reads in steps
    ]


def _is_read_once(tensor: str, index: GraphIndex) -> bool:
    """Tell whether a node makes a tensor and one place reads it."""
    return len(index.uses[tensor]) == 1 and tensor not in index.outputs and tensor in index.producer


def _are_alike(first: str, second: str, types: Mapping[str, TypeProto]) -> bool:
    """Tell whether two tensors are known to have one shape, the batch left out."""
    shapes = [
        [dim.dim_value for dim in types[name].tensor_type.shape.dim[1:]] if name in types else [0]
        for name in (first, second)
    ]
    return shapes[0] == shapes[1] and all(size > 0 for size in shapes[0])
