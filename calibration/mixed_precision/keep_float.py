"""From names that a person gives (`--keep-float layer4.1.conv2`) to the nodes that stay in float.

A name is, in this order: a node's; a module's as PyTorch has it, with all below it (`layer4.1`); `stem`, as in the
ranking of `sensitivity`. In a file of another exporter `/layer4/layer4.1/conv2/Conv` is `layer4.1.conv2` too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from onnx import ModelProto, NodeProto

from calibration.errors import PlacementError
from calibration.lint.module_names import module_names
from calibration.mixed_precision.blocks import STEM, find_blocks
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS

NUM_NEAR = 3
"""Names that a refusal suggests."""


def nodes_named(model: ModelProto, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the nodes of every name, in graph order.

    Raises:
        PlacementError: If nothing has a name, or it holds nothing that could be in INT8.
    """
    shown = dict(zip((str(node.name) for node in model.graph.node), _readable(model), strict=True))
    return {name: _nodes_of(name, model, shown) for name in names}


def _readable(model: ModelProto) -> list[str]:
    constants = {tensor.name for tensor in model.graph.initializer}

    def weight_of(node: NodeProto) -> str:
        has_weight = node.op_type in ALL_WEIGHTED_OPS and len(node.input) > 1 and node.input[1] in constants
        return str(node.input[1]) if has_weight else ""

    return module_names(model.graph, weight_of)


def _nodes_of(name: str, model: ModelProto, shown: dict[str, str]) -> tuple[str, ...]:
    nodes = [node for node in model.graph.node if node.name == name]
    nodes = nodes or [
        node
        for node in model.graph.node
        if any(word == name or word.startswith((f"{name}.", f"{name}/")) for word in (node.name, shown[node.name]))
    ]
    if not nodes and name == STEM:
        layers = {node.name for node in model.graph.node if node.op_type in ALL_WEIGHTED_OPS}
        members = {member for block in find_blocks(model, layers) if block.name == STEM for member in block.nodes}
        nodes = [node for node in model.graph.node if node.name in members]
    if not nodes:
        known = [shown[node.name] for node in model.graph.node if _can_be_kept(node)]
        raise PlacementError(f"--keep-float: nothing is called {name!r}{_near(name, known)}")
    if not any(map(_can_be_kept, nodes)):
        kinds = ", ".join(sorted({node.op_type for node in nodes}))
        raise PlacementError(
            f"--keep-float: {name!r} is {kinds}: it has no weights, and what it gives is quantized for the layer that "
            "reads it; name that layer"
        )
    return tuple(str(node.name) for node in nodes)


def _can_be_kept(node: NodeProto) -> bool:
    return node.op_type in ALL_WEIGHTED_OPS or node.op_type == "Add"


def _near(name: str, words: Sequence[str]) -> str:
    """Return the nearest names of layers and of the modules around them, in words."""
    paths = {".".join(word.split(".")[:end]) for word in words for end in range(1, word.count(".") + 2)}
    near = difflib.get_close_matches(name, sorted(paths), n=NUM_NEAR, cutoff=0.4)
    return f", expected the name of a layer or block; nearest: {', '.join(near or words[:NUM_NEAR])}"
