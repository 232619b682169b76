"""The blocks of two files as models of their own, cut at tensors that both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.mixed_precision.blocks import find_blocks
from calibration.refinement.subgraph import PieceMaker, constant_nodes, nodes_between
from exporter.graph.onnx_graph import all_tensor_types
from exporter.graph.weighted_ops import WEIGHTED_OPS
from runtimes.closing import Closing
from runtimes.protocol import Runtime

Tensors = Mapping[str, NDArray[Any]]
OpenRuntime = Callable[[ModelProto], Runtime]

_BEFORE_THE_NETWORK = frozenset(("Cast", "Div", "Sub", "Mul", "Add", "Transpose"))
"""Operators from pixels to the network's input (`passes.add_pre_post`); casts to FP16 and Q/DQ are the network's."""


@dataclass(frozen=True, slots=True)
class Border:
    """A block between tensors that both files have.

    Attributes:
        name: Module path, "stem", or several with "+" where a tensor between them is missing in one file.
        inputs: Tensors that it reads.
        outputs: Tensors that later blocks read, or that the file gives.
        layers: Names of its weighted layers.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]


def float_entry(model: ModelProto) -> ModelProto:
    """Return the file from its normalized float32 input on; itself unless it takes pixels.

    Raises:
        CalibrationError: If the normalization of the pixels cannot be told from the network.
    """
    graph = model.graph
    name = graph.input[0].name
    if graph.input[0].type.tensor_type.elem_type == 1:  # FLOAT
        return model
    readers = {read: node for node in reversed(graph.node) for read in node.input}
    while (node := readers.get(name)) is not None and node.op_type in _BEFORE_THE_NETWORK:
        if node.op_type == "Transpose":  # NHWC to NCHW is the last step
            name = node.output[0]
            constants = constant_nodes(graph)
            outputs = [info.name for info in graph.output]
            return PieceMaker(model, constants)(nodes_between(graph, {name}, outputs, constants), outputs)
        name = node.output[0]
    raise CalibrationError(f"input {graph.input[0].name!r} takes pixels, and where they become NCHW is not clear")


def block_borders(reference: ModelProto, candidate: ModelProto) -> tuple[Border, ...]:
    """Return the blocks of the reference, joined where the candidate lacks the tensors between them.

    Raises:
        CalibrationError: If there is no block that both files have.
    """
    graph = reference.graph
    blocks = find_blocks(reference, [node.name for node in graph.node if node.op_type in WEIGHTED_OPS])
    constants = constant_nodes(graph).keys() | {tensor.name for tensor in graph.initializer}
    there = {name for node in candidate.graph.node for name in node.output} | {candidate.graph.input[0].name}
    finals = {info.name for info in graph.output}
    borders: list[Border] = []
    names: list[str] = []
    members: set[str] = set()
    held: list[str] = []
    for block in blocks:
        names.append(block.name)
        members |= set(block.nodes)
        held += block.layers
        inside = [node for node in graph.node if node.name in members]
        made = {name for node in inside for name in node.output}
        read_outside = {name for node in graph.node if node.name not in members for name in node.input}
        outputs = tuple(name for node in inside for name in node.output if name in read_outside or name in finals)
        inputs = dict.fromkeys(
            name for node in inside for name in node.input if name and name not in made and name not in constants
        )
        if outputs and there.issuperset(outputs) and there.issuperset(inputs):
            borders.append(Border(" + ".join(names), tuple(inputs), outputs, tuple(held)))
            names, members, held = [], set(), []
    if not borders:
        raise CalibrationError("the files have no tensor between blocks in common; blocks cannot be compared")
    return tuple(borders)


class BlockPieces(Closing):
    """One file, whole and block by block; opened when first used, closed by `close`. Any thread may run it."""

    def __init__(self, model: ModelProto, borders: Sequence[Border], open_runtime: OpenRuntime) -> None:
        self._graph = model.graph
        self._constants = constant_nodes(model.graph)
        self._make = PieceMaker(model, self._constants)
        self._types = all_tensor_types(model)
        self._open = open_runtime
        self._tensors = tuple(dict.fromkeys(name for border in borders for name in (*border.inputs, *border.outputs)))
        self._stack = ExitStack()
        self._opened: dict[str, tuple[Runtime, tuple[str, ...]]] = {}
        self._opening = Lock()

    def whole(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return every border tensor of a run on `images`, float32."""
        entry = self._graph.input[0].name
        wanted = [name for name in self._tensors if name != entry]
        return {entry: images, **self._run("", [entry], wanted, {entry: images})}

    def block(self, border: Border, values: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what the block makes of `values`, float32."""
        return self._run(border.name, border.inputs, border.outputs, values)

    def _run(
        self, key: str, inputs: Sequence[str], outputs: Sequence[str], values: Tensors
    ) -> dict[str, NDArray[np.float32]]:
        with self._opening:
            if key not in self._opened:
                nodes = nodes_between(self._graph, set(inputs), outputs, self._constants)
                runtime = self._stack.enter_context(self._open(self._make(nodes, outputs)))
                self._opened[key] = runtime, tuple(runtime.input_specs)
            runtime, names = self._opened[key]
        given = {name: values[name].astype(runtime.input_specs[name].dtype) for name in names}
        return {name: array.astype(np.float32) for name, array in runtime.run(given).items()}

    def close(self) -> None:
        """Release every piece."""
        self._stack.close()
        self._opened.clear()
