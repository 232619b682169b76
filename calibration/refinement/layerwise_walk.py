"""Walk through a model one weighted layer at a time, so that each layer can be edited before what it gives is computed.

What a layer really reads is what the layers before it made of the images, with every correction made to them so far. So
the walk goes in graph order and computes each part once: the graph is cut before every layer, each piece runs as a
model of its own, and only the tensors that a later piece reads stay in memory, in few bits: levels in the 8 they have,
float values in 16 (`Rounded`).

Tensors shrink on the way through a network. So images may join where there is room for more of them: what they are
there is computed by all that has been walked, with its edits, in one run.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.errors import CalibrationError
from calibration.refinement.subgraph import PieceMaker, constant_nodes
from exporter.graph.onnx_graph import array_from_initializer, copy_model
from exporter.graph.weighted_ops import WEIGHTED_OPS
from runtimes.machine.free_memory import give_back_free_memory
from runtimes.protocol import Runtime

Tensor = NDArray[np.float32]
OpenRuntime = Callable[[ModelProto], Runtime]


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Float values as multiples of one step, 1/32767 of the largest: a 256th of the step they get in INT8.

    Attributes:
        multiples: int16.
        step: > 0.
    """

    multiples: NDArray[np.int16]
    step: np.float32

    @classmethod
    def of(cls, values: Tensor) -> Rounded:
        """Round finite values."""
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        step = np.float32(max(largest / 32767, float(np.finfo(np.float32).tiny)))
        multiples = values * (1 / step)
        np.rint(multiples, out=multiples)
        return cls(np.clip(multiples, -32767, 32767, out=multiples).astype(np.int16), step)

    def values(self) -> Tensor:
        """Return what was rounded, float32."""
        result = self.multiples.astype(np.float32)
        result *= self.step
        return result

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.multiples)

    def __getitem__(self, images: slice) -> Rounded:
        """Return some of the images, which are not copied."""
        return Rounded(self.multiples[images], self.step)


Stored = NDArray[Any] | Rounded


@dataclass(slots=True, eq=False)
class Layer:
    """One layer and what it reads; its constants may be edited in place until the walk goes on.

    Attributes:
        node: The layer in the graph.
        stored: What it reads, per batch, as the walk keeps it.
    """

    node: NodeProto
    stored: list[Stored]
    _restore: Callable[[Stored], Tensor]

    def images(self) -> Iterator[Callable[[], Tensor]]:
        """Yield of each image what returns it as the layer reads it: float32 [C, H, W] for a Conv, [..., K] else."""
        return (partial(self._image, batch, place) for batch in self.stored for place in range(len(batch)))

    def batches(self) -> Iterator[Tensor]:
        """Yield the inputs, batch by batch."""
        return map(self._restore, self.stored)

    def _image(self, batch: Stored, place: int) -> Tensor:
        image: Tensor = self._restore(batch[place : place + 1])[0]
        return image


class LayerwiseWalk:
    """A model, cut before some of its layers.

    Args:
        model: Float, or with Q/DQ; edited in place where the caller edits the layers.
        images: Batches, float32 [n, C, H, W].
        open_runtime: Opens a model so that Q/DQ is computed as it is written (`OrtRuntime(..., exact_qdq=True)`).
        layers: Names of the nodes to stop at; by default the quantized layers of the model.
        counts: Name of a layer to how many of the images take part from there on, whole batches and at least one; all
            of them from the start where a layer is not named.
        to_output: Whether the walk goes on behind the last layer, to the model's first output (`answers`); then
            nothing is rounded to be kept.

    Raises:
        CalibrationError: If there are no images, or the model has no quantized layer.
    """

    def __init__(
        self,
        model: ModelProto,
        images: Sequence[Tensor],
        *,
        open_runtime: OpenRuntime,
        layers: Collection[str] | None = None,
        counts: Mapping[str, int] | None = None,
        to_output: bool = False,
    ) -> None:
        names = quantized_layers(model) if layers is None else layers
        if not images or not names:
            raise CalibrationError(
                f"got {len(images)} batches and {len(names)} quantized layers, expected some of each"
            )
        if len(model.graph.input) != 1:
            raise CalibrationError(f"got a model of {len(model.graph.input)} inputs, expected 1")
        self._started = False
        self._to_output = to_output
        self._keep: Callable[[NDArray[Any]], Stored] = np.asarray if to_output else _rounded
        self._open = open_runtime
        self._counts = counts or {}
        self._waiting = deque(images)
        self._num_images = 0
        self._values: list[dict[str, Stored]] = []
        self._place = 0
        self._reached: list[Stored] | None = None
        self._look_at(model, set(names))

    def _look_at(self, model: ModelProto, names: set[str]) -> None:
        """Cut a model before the nodes of these names."""
        self.model = model
        constants = constant_nodes(model.graph)
        self._make_piece = PieceMaker(model, constants)
        self._restoring = {
            node.output[0]: node
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.output[0] not in constants
        }
        self._layers, self._pieces = self._cut(names, constants)
        self._last_use = {
            name: place for place, nodes in enumerate(self._pieces) for node in nodes for name in node.input
        }
        self._input = model.graph.input[0].name
        self._output = model.graph.output[0].name
        if self._to_output:
            self._last_use[self._output] = len(self._pieces)

    def fork(self, model: ModelProto | None = None) -> LayerwiseWalk:
        """Return a walk that begins with the layer given last.

        Args:
            model: Another one, the same up to that layer; by default a copy of this one as it is edited so far.
        """
        if self._reached is None:
            raise CalibrationError("this walk is at no layer; fork it while it is under way")
        other = copy.copy(self)
        other._started = False
        other._waiting = deque(self._waiting)
        other._values = [dict(values) for values in self._values]
        other._look_at(copy_model(self.model) if model is None else model, {node.name for node in self._layers})
        return other

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        """Give the layers in graph order, once; each is brought up to date with the edits of those before.

        Raises:
            CalibrationError: If the walk has been gone already.
        """
        if self._started:
            raise CalibrationError("this walk has been gone already; make a new LayerwiseWalk")
        self._started = True
        while self._place < len(self._layers):
            node = self._layers[self._place]
            if self._reached is None:
                self._reached = self._reach(self._place)
            layer = Layer(node, self._reached, self._restorer(node.input[0]))
            yield layer
            self._reached, layer.stored = None, []  # whoever holds the layer holds no tensors
            self._place += 1

    def answers(self) -> Iterator[Tensor]:
        """Yield the model's first output, batch by batch, when all layers have been given (`to_output`)."""
        self._run(len(self._layers), self._output)
        return (_restored(values[self._output]) for values in self._values)

    def outputs(self, layer: Layer) -> list[Tensor]:
        """Return what the layer gives with its constants as they are now, batch by batch."""
        piece = self._make_piece([layer.node], layer.node.output)
        with self._open(piece) as runtime:
            name, output = layer.node.input[0], layer.node.output[0]
            return [runtime.run({name: batch})[output] for batch in layer.batches()]

    def _reach(self, place: int) -> list[Stored]:
        """Bring the images to layer number `place`; return what it reads."""
        self._admit(place)
        kept = self._kept_as(self._layers[place].input[0])
        self._run(place, kept)
        reads = [values[kept] for values in self._values]
        self._forget(place)
        return reads

    def _admit(self, place: int) -> None:
        """Let images join before piece number `place`, as many as take part from its layer on."""
        waiting = sum(map(len, self._waiting))
        room = self._counts.get(self._layers[place].name, self._num_images + waiting) - self._num_images
        joining: list[Tensor] = []
        while self._waiting and (len(self._waiting[0]) <= room or not (self._values or joining)):
            joining.append(self._waiting.popleft())
            room -= len(joining[-1])
        self._num_images += sum(map(len, joining))
        self._values += self._caught_up(joining, place, self._values[0].keys() if self._values else {self._input})

    def _caught_up(self, joining: Sequence[Tensor], place: int, wanted: Collection[str]) -> list[dict[str, Stored]]:
        """Return, of each batch, the tensors that the images before it have in front of piece number `place`."""
        values: list[dict[str, Stored]] = [{self._input: np.ascontiguousarray(batch)} for batch in joining]
        made = [name for name in wanted if name != self._input]
        if joining and made:
            walked = self._with_restoring(node for nodes in self._pieces[:place] for node in nodes)
            with self._open(self._make_piece(walked, made)) as runtime:
                for of_batch in values:
                    outputs = runtime.run({self._input: _restored(of_batch[self._input])})
                    of_batch.update((name, self._keep(array)) for name, array in outputs.items())
            give_back_free_memory()  # of a session that ran through half of the network
        return [{name: of_batch[name] for name in wanted} for of_batch in values]

    def _run(self, place: int, needed: str) -> None:
        """Run piece number `place`; keep `needed` and what later pieces read."""
        nodes = self._pieces[place]
        made = [name for node in nodes for name in node.output if name]
        wanted = [name for name in made if self._last_use.get(name, -1) > place or name == needed]
        if not wanted:
            return  # the layer reads what an earlier piece has made
        piece = self._make_piece(nodes, wanted)
        inputs = [info.name for info in piece.graph.input]
        with self._open(piece) as runtime:
            for values in self._values:
                outputs = runtime.run({name: _restored(values[name]) for name in inputs})
                values.update((name, self._keep(array)) for name, array in outputs.items())

    def _forget(self, place: int) -> None:
        """Drop what no piece behind number `place` reads."""
        for values in self._values:
            for name in [name for name in values if self._last_use.get(name, -1) <= place]:
                del values[name]

    def _kept_as(self, name: str) -> str:
        """Return the tensor that is stored for one that is read: the levels, where it has some."""
        node = self._restoring.get(name)
        return name if node is None else str(node.input[0])

    def _restorer(self, name: str) -> Callable[[Stored], Tensor]:
        """Return how `name` comes from what is stored for it."""
        node = self._restoring.get(name)
        if node is None:
            return _restored
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        scale, zero_point = (array_from_initializer(constants[constant]) for constant in node.input[1:3])
        zero = zero_point.astype(np.float32)
        return lambda levels: (_restored(levels).astype(np.float32) - zero) * scale

    def _cut(self, names: set[str], constants: Collection[str]) -> tuple[list[NodeProto], list[list[NodeProto]]]:
        """Return the layers, and what is run before each, and behind the last where the walk goes to the output.

        Levels are made float again by whoever reads them.
        """
        layers: list[NodeProto] = []
        pieces: list[list[NodeProto]] = [[]]
        for node in self.model.graph.node:
            if node.output[0] in constants or node.output[0] in self._restoring:
                continue
            if node.name in names:
                layers.append(node)
                pieces.append([])
            pieces[-1].append(node)
        if not self._to_output:
            del pieces[-1]
        return layers, [self._with_restoring(nodes) for nodes in pieces]

    def _with_restoring(self, nodes: Iterable[NodeProto]) -> list[NodeProto]:
        """Return the nodes, each tensor's DequantizeLinear before the first that reads it."""
        found: dict[str, NodeProto] = {}
        for node in nodes:
            found.update((name, self._restoring[name]) for name in node.input if name in self._restoring)
            found[node.output[0]] = node
        return list(found.values())


def quantized_layers(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv, Gemm and MatMul nodes whose weight is stored as integers, in graph order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return tuple(
        node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS and node.input[1] in dequantized
    )


def _rounded(array: NDArray[Any]) -> Stored:
    return Rounded.of(array) if array.dtype == np.float32 else array


def _restored(stored: Stored) -> NDArray[Any]:
    return stored.values() if isinstance(stored, Rounded) else stored
