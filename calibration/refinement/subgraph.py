"""Parts of a graph as models of their own: cut out between some tensors, with the constants that they read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from calibration.errors import CalibrationError
from exporter.graph.onnx_graph import all_tensor_types, array_from_initializer
from runtimes.protocol import Runtime


def constant_nodes(graph: GraphProto) -> dict[str, NodeProto]:
    """Return output name to node for every node that reads constants only, such as the DQ of a weight."""
    known = {tensor.name for tensor in graph.initializer}
    constants: dict[str, NodeProto] = {}
    for node in graph.node:
        if len(node.output) == 1 and all(not name or name in known or name in constants for name in node.input):
            constants[node.output[0]] = node
    return constants


class PieceMaker:
    """Makes models of parts of a graph; constants are read anew each time, so that edits count.

    Args:
        model: The whole.
        constants: `constant_nodes` of its graph.
    """

    def __init__(self, model: ModelProto, constants: Mapping[str, NodeProto]) -> None:
        self._model = model
        self._constants = constants
        self._types = all_tensor_types(model)

    def __call__(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> ModelProto:
        """Return a model of `nodes` and the constants they read, with the given outputs."""
        initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        kept = [*self._constants_read([name for node in nodes for name in node.input] or outputs), *nodes]
        made = {name for node in kept for name in node.output}
        read = dict.fromkeys(name for node in kept for name in node.input if name and name not in made)
        graph = onnx.helper.make_graph(
            kept,
            "piece",
            [onnx.ValueInfoProto(name=name, type=self._types[name]) for name in read if name not in initializers],
            [onnx.ValueInfoProto(name=name, type=self._types[name]) for name in outputs],
            [initializers[name] for name in read if name in initializers],
        )
        return onnx.helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)

    def _constants_read(self, names: Iterable[str]) -> list[NodeProto]:
        """Return the nodes that make those of `names` that are constants, in the order they must run."""
        found: dict[str, NodeProto] = {}

        def visit(names: Iterable[str]) -> None:
            for name in names:
                if name in self._constants and name not in found:
                    visit(self._constants[name].input)
                    found[name] = self._constants[name]

        visit(names)
        return list(found.values())


def nodes_between(
    graph: GraphProto, inputs: Collection[str], outputs: Sequence[str], constants: Mapping[str, NodeProto]
) -> list[NodeProto]:
    """Return the nodes that make `outputs` of `inputs`, in graph order, without those that make constants.

    Args:
        graph: The whole.
        inputs: Tensors where the way back ends.
        outputs: Tensors to make.
        constants: `constant_nodes` of the graph.

    Raises:
        CalibrationError: If an output is made of something else too, or does not exist.
    """
    producer = {name: node for node in graph.node for name in node.output if name}
    known = {tensor.name for tensor in graph.initializer} | constants.keys()
    needed: set[str] = set()
    waiting = [name for name in outputs if name not in inputs]
    while waiting:
        name = waiting.pop()
        node = producer.get(name)
        if node is None:
            raise CalibrationError(f"tensor {name!r} is not made of {', '.join(sorted(inputs))} alone")
        if node.output[0] in needed:
            continue
        needed.add(node.output[0])
        waiting.extend(read for read in node.input if read and read not in known and read not in inputs)
    return [node for node in graph.node if node.output and node.output[0] in needed]


def constant_values(
    model: ModelProto, names: Collection[str], open_runtime: Callable[[ModelProto], Runtime]
) -> dict[str, NDArray[np.float64]]:
    """Return constants by name as the model uses them: dequantized, cast, transposed; those that are none are left out.

    Args:
        model: Any graph.
        names: Tensors.
        open_runtime: Opens a model; it computes what is not stored.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made = constant_nodes(model.graph)
    values = {name: array_from_initializer(stored[name]).astype(np.float64) for name in names if name in stored}
    if computed := [name for name in dict.fromkeys(names) if name in made]:
        piece = PieceMaker(model, made)((), computed)
        with open_runtime(piece) as runtime:
            values.update((name, array.astype(np.float64)) for name, array in runtime.run({}).items())
    return values
