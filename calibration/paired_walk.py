"""Walk through the float and the quantized model side by side, one weighted layer at a time, on the same images.

What a layer of the quantized model really reads is what the quantized layers before it made of the images, with every
correction made to them so far. So the walk goes in graph order and computes each side once: the graphs are cut behind
every layer, each piece runs as a model of its own, and only the tensors that a later piece reads stay in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TypeProto

from calibration.errors import CalibrationError
from calibration.graph_pieces import PieceMaker, constant_nodes
from exporter.graph import all_tensor_types
from runtimes.protocol import Runtime

Tensor = NDArray[np.float32]
OpenRuntime = Callable[[ModelProto], Runtime]

WEIGHTED_OPS = frozenset(("Conv", "Gemm", "MatMul"))


@dataclass(slots=True, eq=False)
class Layer:
    """One quantized layer on both sides, batch by batch; its arrays are there until the walk goes on.

    Attributes:
        node: The layer in the quantized graph; its constants may be edited in place (see `PairedWalk.model`).
        float_node: The same layer in the float graph.
        inputs: What the quantized layer reads, dequantized, float32 [n, C, ...] per batch.
        reference: The float layer's outputs.
        outputs: The quantized layer's outputs; assign what a correction makes of them.
    """

    node: NodeProto
    float_node: NodeProto
    inputs: list[Tensor]
    reference: list[Tensor]
    outputs: list[Tensor]


@dataclass(slots=True, eq=False)
class _Side:
    """One of the two models: its pieces, and the tensors that are alive, per batch."""

    graph: GraphProto
    make_piece: Callable[[Sequence[NodeProto], Sequence[str]], ModelProto]
    pieces: list[list[NodeProto]]
    values: list[dict[str, Tensor]]
    last_use: dict[str, int] = field(default_factory=dict)


class PairedWalk:
    """The two models, cut at the layers that are quantized.

    Args:
        reference: The float32 model.
        quantized: A Q/DQ copy of it: same node names, float32 tensors outside Q/DQ pairs. It is edited in place
            where the caller edits the layers.
        images: Batches, float32 [n, C, H, W].
        open_runtime: Opens a model so that Q/DQ is computed as it is written (`OrtRuntime(..., exact_qdq=True)`).

    Raises:
        CalibrationError: If there are no images, or the models have no quantized layer in common.
    """

    def __init__(
        self, reference: ModelProto, quantized: ModelProto, images: Sequence[Tensor], *, open_runtime: OpenRuntime
    ) -> None:
        names = quantized_layers(quantized)
        if not images or not names:
            raise CalibrationError(
                f"got {len(images)} batches and {len(names)} quantized layers, expected some of each"
            )
        self.model = quantized
        self._started = False
        self._names = names
        self._open = open_runtime
        self._reference = _side(reference, names, images)
        self._quantized = _side(quantized, names, images)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._names)

    def __iter__(self) -> Iterator[Layer]:
        """Give the layers in graph order, once; each is brought up to date with the edits of those before.

        Raises:
            CalibrationError: If the two models differ in order, or the walk has been gone already.
        """
        if self._started:
            raise CalibrationError("this walk has been gone already; make a new PairedWalk")
        self._started = True
        for place, name in enumerate(self._names):
            reference = _last(self._reference.pieces[place], name)
            node = _last(self._quantized.pieces[place], name)
            self._run(self._reference, place, ())
            expected = [values[reference.output[0]] for values in self._reference.values]
            _forget(self._reference, place)
            self._run(self._quantized, place, (node.input[0],))
            inputs = [values[node.input[0]] for values in self._quantized.values]
            layer = Layer(
                node, reference, inputs, expected, [values[node.output[0]] for values in self._quantized.values]
            )
            del expected, inputs
            _forget(self._quantized, place)
            yield layer
            _store(self._quantized, place, node.output[0], layer.outputs)
            layer.inputs, layer.reference, layer.outputs = [], [], []  # whoever holds the layer holds no tensors

    def rerun(self, layer: Layer) -> list[Tensor]:
        """Return the layer's outputs with its constants as they are now."""
        piece = self._quantized.make_piece([layer.node], layer.node.output)
        with self._open(piece) as runtime:
            return [runtime.run({layer.node.input[0]: batch})[layer.node.output[0]] for batch in layer.inputs]

    def _run(self, side: _Side, place: int, also: Sequence[str]) -> None:
        """Run piece number `place`; keep what later pieces read, the layer's output and the tensors of `also`."""
        nodes = side.pieces[place]
        made = [name for node in nodes for name in node.output if name]
        wanted = [name for name in made if side.last_use.get(name, -1) > place or name in also]
        wanted = list(dict.fromkeys([*wanted, nodes[-1].output[0]]))
        piece = side.make_piece(nodes, wanted)
        inputs = [info.name for info in piece.graph.input]
        with self._open(piece) as runtime:
            for values in side.values:
                values.update(runtime.run({name: values[name] for name in inputs}))


def quantized_layers(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv, Gemm and MatMul nodes whose weight is stored as integers, in graph order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return tuple(
        node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS and node.input[1] in dequantized
    )


def _side(model: ModelProto, layers: Sequence[str], images: Sequence[Tensor]) -> _Side:
    graph = model.graph
    if len(graph.input) != 1:
        raise CalibrationError(f"got a model of {len(graph.input)} inputs, expected 1")
    constants = constant_nodes(graph)
    pieces: list[list[NodeProto]] = [[]]
    ends = set(layers)
    for node in graph.node:
        if node.output[0] in constants:
            continue
        pieces[-1].append(node)
        if node.name in ends:
            pieces.append([])
    if len(pieces) != len(layers) + 1:
        raise CalibrationError(f"got {len(pieces) - 1} of {len(layers)} quantized layers in the float model")
    del pieces[-1]  # behind the last layer there is nothing to correct
    side = _Side(
        graph,
        PieceMaker(model, constants),
        pieces,
        [{graph.input[0].name: np.ascontiguousarray(batch)} for batch in images],
    )
    for place, nodes in enumerate(pieces):
        for node in nodes:
            side.last_use.update(dict.fromkeys(node.input, place))
    return side


def _last(nodes: Sequence[NodeProto], name: str) -> NodeProto:
    if nodes[-1].name != name:
        raise CalibrationError(f"got layer {nodes[-1].name!r} where {name!r} was expected: the models differ in order")
    return nodes[-1]


def _store(side: _Side, place: int, name: str, batches: Sequence[Tensor]) -> None:
    """Let later pieces read `batches` as tensor `name`, if any of them does."""
    if side.last_use.get(name, -1) > place:
        for values, batch in zip(side.values, batches, strict=True):
            values[name] = batch


def _forget(side: _Side, place: int) -> None:
    """Drop what no piece behind number `place` reads."""
    for values in side.values:
        for name in [name for name in values if side.last_use.get(name, -1) <= place]:
            del values[name]


def live_bytes_per_image(model: ModelProto) -> int:
    """Return the most bytes that the walk keeps of one image, both sides together.

    Args:
        model: The float32 model; only its batch axis may be symbolic.

    Raises:
        CalibrationError: If the size of a tensor is not known.
    """
    sizes = {name: _bytes_per_image(kind) for name, kind in all_tensor_types(model).items()}
    last_use = {name: place for place, node in enumerate(model.graph.node) for name in node.input}
    live = {info.name: sizes[info.name] for info in model.graph.input if info.name in last_use}
    most = 0
    for place, node in enumerate(model.graph.node):
        live.update((name, sizes.get(name, 0)) for name in node.output if name)
        if unknown := [name for name, size in live.items() if size == 0]:
            raise CalibrationError(
                f"the size of tensor {unknown[0]!r} is not known; export with a fixed input size, only the batch axis "
                "may be symbolic"
            )
        most = max(most, sum(live.values()))
        for name in [name for name in live if last_use.get(name, -1) <= place]:
            del live[name]
    return 2 * most


def _bytes_per_image(kind: TypeProto) -> int:
    """Return the bytes of a tensor along all axes but the batch, 0 where these are not known.

    The batch is the axis without a size, wherever it lies: attention puts query, key and value before it. Windows are
    multiplied into it, so that a few tensors of Hiera's stem count for less than they hold.
    """
    tensor = kind.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or sizes.count(0) > 1:
        return 0
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return int(itemsize * math.prod(size for size in sizes if size))
