"""Walk through a quantized model one weighted layer at a time, so that each layer can be edited before the next is run.

What a layer really reads is what the layers before it made of the images, with every correction made to them so far. So
the walk goes in graph order and computes each part once: the graph is cut behind every layer, each piece runs as a
model of its own, and only the tensors that a later piece reads stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from calibration.errors import CalibrationError
from calibration.refinement.subgraph import PieceMaker, constant_nodes
from exporter.graph.weighted_ops import WEIGHTED_OPS
from runtimes.protocol import Runtime

Tensor = NDArray[np.float32]
OpenRuntime = Callable[[ModelProto], Runtime]


@dataclass(slots=True, eq=False)
class Layer:
    """One quantized layer, batch by batch; its arrays are there until the walk goes on.

    Attributes:
        node: The layer in the graph; its constants may be edited in place (see `QuantizedWalk.model`).
        inputs: What it reads, dequantized, float32 [n, C, ...] per batch; empty unless the walk was asked for them.
        outputs: Its outputs; assign what a correction makes of them. In a walk with inputs they are not computed before
            `QuantizedWalk.compute` is called, so that a layer whose weights are edited runs once.
    """

    node: NodeProto
    inputs: list[Tensor]
    outputs: list[Tensor]


class QuantizedWalk:
    """A Q/DQ model, cut at its quantized layers.

    Args:
        model: The Q/DQ model; edited in place where the caller edits the layers.
        images: Batches, float32 [n, C, H, W].
        open_runtime: Opens a model so that Q/DQ is computed as it is written (`OrtRuntime(..., exact_qdq=True)`).
        with_inputs: Whether layers come with what they read; that takes memory.
        layers: Names of the nodes to stop at; by default the quantized layers of the model.

    Raises:
        CalibrationError: If there are no images, or the model has no quantized layer.
    """

    def __init__(
        self,
        model: ModelProto,
        images: Sequence[Tensor],
        *,
        open_runtime: OpenRuntime,
        with_inputs: bool,
        layers: Collection[str] | None = None,
    ) -> None:
        names = quantized_layers(model) if layers is None else layers
        if not images or not names:
            raise CalibrationError(
                f"got {len(images)} batches and {len(names)} quantized layers, expected some of each"
            )
        if len(model.graph.input) != 1:
            raise CalibrationError(f"got a model of {len(model.graph.input)} inputs, expected 1")
        self.model = model
        self._started = False
        self._open = open_runtime
        self._with_inputs = with_inputs
        constants = constant_nodes(model.graph)
        self._make_piece = PieceMaker(model, constants)
        self._pieces = _cut(model.graph, set(names), constants)
        self._last_use = {
            name: place for place, nodes in enumerate(self._pieces) for node in nodes for name in node.input
        }
        input_name = model.graph.input[0].name
        self._values = [{input_name: np.ascontiguousarray(batch)} for batch in images]

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._pieces)

    def __iter__(self) -> Iterator[Layer]:
        """Give the layers in graph order, once; each is brought up to date with the edits of those before.

        Raises:
            CalibrationError: If the walk has been gone already.
        """
        if self._started:
            raise CalibrationError("this walk has been gone already; make a new QuantizedWalk")
        self._started = True
        for place, nodes in enumerate(self._pieces):
            node = nodes[-1]
            self._run(place)
            inputs = [values[node.input[0]] for values in self._values] if self._with_inputs else []
            layer = Layer(node, inputs, [] if inputs else [values[node.output[0]] for values in self._values])
            del inputs
            self._forget(place)
            yield layer
            if not layer.outputs:
                self.compute(layer)
            self._store(place, node.output[0], layer.outputs)
            layer.inputs, layer.outputs = [], []  # whoever holds the layer holds no tensors

    def compute(self, layer: Layer) -> None:
        """Compute the layer's outputs with its constants as they are now; needs its inputs."""
        piece = self._make_piece([layer.node], layer.node.output)
        with self._open(piece) as runtime:
            name, output = layer.node.input[0], layer.node.output[0]
            layer.outputs = [runtime.run({name: batch})[output] for batch in layer.inputs]

    def _run(self, place: int) -> None:
        """Run piece number `place`; keep what later pieces read, and the layer's output or, if asked for, its input."""
        nodes = self._pieces[place]
        if self._with_inputs:
            nodes, needed = nodes[:-1], nodes[-1].input[0]
        else:
            needed = nodes[-1].output[0]
        made = [name for node in nodes for name in node.output if name]
        wanted = [name for name in made if self._last_use.get(name, -1) > place or name == needed]
        if not wanted:
            return  # the layer reads what an earlier piece has made
        piece = self._make_piece(nodes, wanted)
        inputs = [info.name for info in piece.graph.input]
        with self._open(piece) as runtime:
            for values in self._values:
                values.update(runtime.run({name: values[name] for name in inputs}))

    def _forget(self, place: int) -> None:
        """Drop what no piece behind number `place` reads."""
        for values in self._values:
            for name in [name for name in values if self._last_use.get(name, -1) <= place]:
                del values[name]

    def _store(self, place: int, name: str, batches: Sequence[Tensor]) -> None:
        """Let later pieces read `batches` as tensor `name`, if any of them does."""
        if self._last_use.get(name, -1) > place:
            for values, batch in zip(self._values, batches, strict=True):
                values[name] = batch


def quantized_layers(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv, Gemm and MatMul nodes whose weight is stored as integers, in graph order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return tuple(
        node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS and node.input[1] in dequantized
    )


def _cut(graph: GraphProto, layers: set[str], constants: dict[str, NodeProto]) -> list[list[NodeProto]]:
    """Return the nodes up to each layer; behind the last one there is nothing to correct."""
    pieces: list[list[NodeProto]] = [[]]
    for node in graph.node:
        if node.output[0] in constants:
            continue
        pieces[-1].append(node)
        if node.name in layers:
            pieces.append([])
    return pieces[:-1]
