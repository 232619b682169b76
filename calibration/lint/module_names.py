"""Map nodes of any ONNX file to PyTorch's module names: `layer3.2.conv1` for `/layer3/layer3.2/conv1/Conv`.

Tried in this order, because quantizers rename nodes more often than weights:

    weight       a constant `layer3.2.conv1.weight`, whatever a quantizer put behind it
    metadata     torch.onnx.export (2.5 and newer) leaves the modules' path with every node; that of a convolution with
                 BatchNorm folded in is the BatchNorm's
    path         the older exporter writes `/layer3/layer3.2/conv1/Conv`
    block        an Add is named after the block of the convolution before it: `layer3.2.add`
    node name    as it stands
"""

from __future__ import annotations

import re
from collections.abc import Callable

from onnx import GraphProto, NodeProto

from exporter.passes.name_tensors import scopes_and_classes

_WEIGHT = re.compile(r"^(?P<module>[A-Za-z_]\w*(?:\.\w+)*)\.weight(?:\W.*|_.*)?$")
_LEAVES = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "QLinearConv", "ConvInteger"))
_IN_CONTAINERS = frozenset(("Add", "Mul", "Sub", "Div", "Concat", "Flatten", "Reshape", "Transpose", "Constant"))
"""Operators that a container's own forward writes, rather than a module of their own."""

_GIVEN_BY_MACHINES = re.compile(r"^(node_|n\d+$|/|onnx::|val_|[A-Z]\w*_\d+$|\d+$)")


def module_names(graph: GraphProto, weight_of: Callable[[NodeProto], str]) -> list[str]:
    """Return the readable name of every node, in node order; never empty, not always unique."""
    producer = {output: place for place, node in enumerate(graph.node) for output in node.output}
    names: list[str] = []
    for node in graph.node:
        name = _from_weight(node, weight_of(node)) or _from_metadata(node) or _from_path(node)
        if not name and node.op_type == "Add" and (not node.name or _GIVEN_BY_MACHINES.match(node.name)):
            name = _from_block(node, names, producer, graph)
        if not name and str(node.op_type).startswith("Q"):
            name = str(node.name).removesuffix("_quant")  # ONNX Runtime's suffix of what it made a QLinear operator
        names.append(name or str(node.name) or next(filter(None, node.output), node.op_type))
    return names


def is_readable(name: str) -> bool:
    """Tell whether a name was given by people rather than by an exporter's counter."""
    return not _GIVEN_BY_MACHINES.match(name)


def _from_metadata(node: NodeProto) -> str:
    scopes, classes = scopes_and_classes(node)
    if len(scopes) < 2 or not scopes[-2]:
        return ""
    kind = classes[-2] if len(classes) == len(scopes) else ""
    is_leaf = kind.startswith("torch.nn.modules.") and ".container." not in kind
    return scopes[-2] if is_leaf else f"{scopes[-2]}.{node.op_type.lower()}"


def _from_path(node: NodeProto) -> str:
    """Join `/layer3/layer3.2/downsample/downsample.0/Conv` to `layer3.2.downsample.0`."""
    words = str(node.name).split("/")
    if len(words) < 2 or words[0]:
        return ""
    path: list[str] = []
    for word in words[1:-1]:
        if path and word.startswith(f"{path[-1]}."):
            path[-1] = word  # a container's path is repeated with the child's number
        else:
            path.append(word)
    if not path or node.op_type in _IN_CONTAINERS:
        path.append(words[-1].lower())
    return ".".join(path)


def _from_weight(node: NodeProto, weight: str) -> str:
    found = _WEIGHT.match(weight) if node.op_type in _LEAVES else None
    return found["module"] if found else ""


def _from_block(add: NodeProto, names: list[str], producer: dict[str, int], graph: GraphProto) -> str:
    """Name an Add after the block of the nearest layer before it whose name has a dot."""
    blocks = []
    for operand in add.input:
        place = producer.get(operand)
        for _ in range(8):  # through Q, DQ and an activation
            if place is None or place >= len(names):
                break
            if graph.node[place].op_type in _LEAVES and is_readable(names[place]) and "." in names[place]:
                blocks.append(names[place].removesuffix(".0"))
                break
            node = graph.node[place]
            place = producer.get(node.input[0]) if len(node.input) and node.op_type != "Add" else None
    if not blocks:
        return ""
    # Of a projection shortcut (layer3.0.downsample.0) and a main path (layer3.0.conv3) the block is the same.
    last = max(blocks, key=lambda name: (not name.rpartition(".")[2].startswith(("downsample", "shortcut")), name))
    return f"{last.rpartition('.')[0]}.add"
