"""Which block of the network a node belongs to, read from its name, which is its module's path in PyTorch.

    block    the longest module path whose last word ends in a digit and below which there are at least two weighted
             layers: `layer1.0` of a ResNet; also `stages.0.blocks.1`, `features.3`, `s1.b2`, `denseblock1.denselayer4`
    stem     what comes before the first block
    others   every other weighted layer is a block of its own, called as it is: `fc`

Nodes without weights outside all this (pooling before the classifier) go with the next weighted layer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto

from exporter.graph.weighted_ops import WEIGHTED_OPS

STEM = "stem"


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes that go to float together, of a module path or "stem", in graph order; `layers` are those quantized."""

    name: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


def find_blocks(model: ModelProto, layers: Collection[str]) -> tuple[Block, ...]:
    """Return the blocks that hold a layer, in graph order; every node is in one block at most."""
    weighted = Counter(
        path for node in model.graph.node if node.op_type in WEIGHTED_OPS for path in _indexed_paths(node.name)
    )
    members: dict[str, list[str]] = defaultdict(list)
    waiting: list[str] = []
    has_blocks, in_stem = any(count > 1 for count in weighted.values()), True
    for node in model.graph.node:
        name = next((path for path in _indexed_paths(node.name) if weighted[path] > 1), "")
        in_stem = in_stem and has_blocks and not name
        if not name and in_stem:
            name = STEM
        elif not name and node.op_type in WEIGHTED_OPS:
            name = node.name
        elif not name:
            waiting.append(node.name)
            continue
        members[name].extend((*waiting, node.name))
        waiting = []
    blocks = (
        Block(name, tuple(nodes), tuple(node for node in nodes if node in layers)) for name, nodes in members.items()
    )
    return tuple(block for block in blocks if block.layers)


def _indexed_paths(name: str) -> list[str]:
    """Return the module paths that hold `name` and whose last word ends in a digit, longest first."""
    words = name.split(".")
    return [".".join(words[:end]) for end in range(len(words) - 1, 0, -1) if words[end - 1][-1:].isdigit()]
