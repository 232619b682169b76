"""A graph whose constants and nodes are edited one after the other, with look-ups that stay right meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto

from exporter.errors import WeightsError
from exporter.graph import onnx_graph


@dataclass(slots=True, eq=False)
class EditedGraph:
    """One graph while it is edited; dropped nodes leave it at the end. Callers may replace `frozen` inputs."""

    graph: GraphProto
    shapes: dict[str, tuple[int | str, ...]]
    frozen: frozenset[str]
    producer: dict[str, NodeProto] = field(init=False)
    uses: dict[str, list[onnx_graph.Use]] = field(init=False)
    initializer: dict[str, TensorProto] = field(init=False)
    outputs: frozenset[str] = field(init=False)
    _dropped: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        index = onnx_graph.index_graph(self.graph)
        self.producer, self.initializer = dict(index.producer), dict(index.initializer)
        self.uses = {name: list(places) for name, places in index.uses.items()}
        self.outputs = index.outputs

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the float constant called `name`, unless callers may replace it."""
        tensor = self.initializer.get(name)
        if tensor is None or name in self.frozen or tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            return None
        return onnx_graph.array_from_initializer(tensor)

    def rewrite(self, node: NodeProto, place: int, values: NDArray[Any], suffix: str) -> None:
        """Give input `place` of `node` new float32 values, in a constant of its own where others read the old one."""
        with np.errstate(over="ignore"):
            stored = values.astype(np.float32)
        if not np.isfinite(stored).all():
            raise WeightsError(f"folding into {node.name!r} gives NaN or Inf in its {suffix}; the weights are damaged")
        old = node.input[place] if place < len(node.input) else ""
        if old and len(self.uses[old]) == 1 and old not in self.outputs:
            self.initializer[old].CopyFrom(onnx_graph.initializer_from_array(old, stored))
            return
        taken = (self.initializer, self.producer, self.frozen)
        name = onnx_graph.free_name(f"{node.name}.{suffix}", lambda word: any(word in names for names in taken))
        self.graph.initializer.append(onnx_graph.initializer_from_array(name, stored))
        self.initializer[name] = self.graph.initializer[-1]
        while len(node.input) <= place:
            node.input.append("")
        self.read(node, place, name)

    def drop(self, node: NodeProto, *, keep: str) -> None:
        """Remove a node of one output: its producer writes that name now, or its readers read `keep`."""
        output = node.output[0]
        for place in range(len(node.input)):
            self.read(node, place, "")
        if output in self.outputs:
            producer = self.producer[keep]
            producer.output[list(producer.output).index(keep)] = output
            self.producer[output] = producer
        for use in list(self.uses.get(output, ())) if output not in self.outputs else ():
            self.read(use.node, use.place, keep)
        self._dropped.add(node.name)

    def read(self, node: NodeProto, place: int, name: str) -> None:
        """Let input `place` of `node` be `name`."""
        if old := node.input[place]:
            self.uses[old] = [use for use in self.uses[old] if (use.node.name, use.place) != (node.name, place)]
        node.input[place] = name
        if name:
            self.uses.setdefault(name, []).append(onnx_graph.Use(node, place))

    def finish(self) -> None:
        """Take the dropped nodes and unread constants out of the graph."""
        onnx_graph.replace_nodes(self.graph, [node for node in self.graph.node if node.name not in self._dropped])
        onnx_graph.remove_unused_initializers(self.graph)
