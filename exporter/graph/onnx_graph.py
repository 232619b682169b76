"""Reading and editing ONNX graphs: who makes a tensor, who reads it, what a pass returns.

Passes in this project take a `ModelProto`, leave it unchanged, and return a `PassResult`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

STANDARD_DOMAINS = frozenset(("", "ai.onnx"))
"""Both names of the domain of ONNX's own operators."""

_COUNTED = (TensorProto.INT64, TensorProto.INT32)
"""Types of constants that may say how large something is."""

_MAX_READ = 1024
"""Values of other constants, at most, that shape inference is given."""


class Use(NamedTuple):
    """One place where a tensor is read: input number `place` of `node`."""

    node: NodeProto
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class GraphIndex:
    """Look-ups over one graph, valid until the graph is edited.

    Attributes:
        producer: Tensor name to the node that makes it; graph inputs and initializers have none.
        uses: Tensor name to the places that read it; graph outputs are not uses.
        initializer: Name to constant tensor.
        position: Tensor name to the place of the node that makes it in the node list.
        node_position: Node name to its place in the node list.
        outputs: Names of the graph's outputs.
    """

    producer: Mapping[str, NodeProto]
    uses: Mapping[str, tuple[Use, ...]]
    initializer: Mapping[str, TensorProto]
    position: Mapping[str, int]
    node_position: Mapping[str, int]
    outputs: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """The edited copy, how many matches were rewritten, and why others were left alone, one sentence each."""

    model: ModelProto
    num_changes: int
    skipped: tuple[str, ...] = ()


def index_graph(graph: GraphProto) -> GraphIndex:
    """Index producers, uses and initializers of `graph`."""
    producer: dict[str, NodeProto] = {}
    uses: dict[str, list[Use]] = defaultdict(list)
    position: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for name in node.output:
            producer[name] = node
            position[name] = place
        for index, name in enumerate(node.input):
            if name:
                uses[name].append(Use(node, index))
    return GraphIndex(
        producer=producer,
        uses={name: tuple(places) for name, places in uses.items()},
        initializer={tensor.name: tensor for tensor in graph.initializer},
        position=position,
        node_position={node.name: place for place, node in enumerate(graph.node)},
        outputs=frozenset(output.name for output in graph.output),
    )


def copy_model(model: ModelProto) -> ModelProto:
    """Return a copy that shares nothing with `model`."""
    return copy.deepcopy(model)


def copy_without_constants(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy that lacks the constants called `names`, without copying them on the way."""
    result = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            value = [tensor for tensor in value if tensor.name not in names]
        _copy_field(result.graph, field.name, value)
    return result


def _copy_field(message: Any, name: str, value: Any) -> None:
    if isinstance(value, (str, bytes, int, float)):
        setattr(message, name, value)
    elif hasattr(value, "ListFields"):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)


def array_from_initializer(tensor: TensorProto) -> NDArray[Any]:
    """Return a constant's values."""
    array: NDArray[Any] = numpy_helper.to_array(tensor)
    return array


def initializer_from_array(name: str, array: NDArray[Any]) -> TensorProto:
    """Return a constant called `name`."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def node_name(node: NodeProto) -> str:
    """Return what the file calls a node: its name, or its first output's."""
    return str(node.name or next(filter(None, node.output), node.op_type))


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators, 0 where the model names none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of attribute `name`, or `default` when the node does not have it."""
    for candidate in node.attribute:
        if candidate.name == name:
            return onnx.helper.get_attribute_value(candidate)
    return default


def pads_by_rule(node: NodeProto) -> bool:
    """Tell whether how much a convolution or pool pads is not written in it."""
    return attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def maker_behind(tensor: str, producer: Mapping[str, NodeProto], passed: Collection[str]) -> NodeProto | None:
    """Return the node that makes a tensor, behind those of the kinds `passed`; None where no node does."""
    node = producer.get(tensor)
    while node is not None and node.op_type in passed:
        node = producer.get(node.input[0])
    return node


def set_attributes(node: NodeProto, *dropped: str, **values: Any) -> None:
    """Give a node these attributes in place of what it has under their names, and drop others by name; in place."""
    kept = [entry for entry in node.attribute if entry.name not in (*dropped, *values)]
    added = [onnx.helper.make_attribute(name, value) for name, value in values.items()]
    refill(node.attribute, (*kept, *added))


def refill(field: Any, values: Iterable[Any]) -> None:
    """Make `values`, which may be some of its own, the content of a repeated field, in place."""
    new = list(values)
    del field[:]
    field.extend(new)


def rename_tensors(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Call tensors otherwise, old name to new, wherever nodes read or make them, in place."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                tensors[place] = names.get(name, name)


def read_instead(graph: GraphProto, old: str, new: str) -> None:
    """Let every node that reads tensor `old` read `new`, in place."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, in place: its first output's, where it has none or shares it."""
    counts = Counter(node.name for node in model.graph.node)
    taken = set(counts)
    for node in model.graph.node:
        if node.name and counts[node.name] == 1:
            continue
        base = next((output for output in node.output if output), node.op_type)
        node.name = free_name(base, lambda name: name in taken)
        taken.add(node.name)


def free_name(base: str, is_taken: Callable[[str], bool]) -> str:
    """Return `base`, or `base` with the first number that makes it new: `relu`, `relu_1`, `relu_2`, ..."""
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(1)))
    return next(name for name in names if not is_taken(name))


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Make `nodes` the node list of `graph`, in place."""
    refill(graph.node, nodes)


def forget_gone_types(graph: GraphProto) -> None:
    """Drop the declared types of tensors that no node makes, in place."""
    made = {name for node in graph.node for name in node.output}
    refill(graph.value_info, [info for info in graph.value_info if info.name in made])


def remove_unused_initializers(graph: GraphProto) -> None:
    """Drop constants that no node reads and that are no output, in place."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    refill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])


def remove_dead_nodes(graph: GraphProto) -> None:
    """Drop nodes whose outputs nobody reads and that are no graph output, and constants that nobody reads, in place."""
    read = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        subgraphs = any(a.HasField("g") or a.graphs for a in node.attribute)
        if subgraphs or read & set(node.output):
            kept.append(node)
            read.update(node.input)
    replace_nodes(graph, reversed(kept))
    remove_unused_initializers(graph)


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return a copy whose intermediate tensors have freshly inferred types and shapes.

    Raises:
        onnx.shape_inference.InferenceError: If types or shapes contradict each other.
    """
    result = _inferred_skeleton(model)
    refill(result.graph.initializer, model.graph.initializer)
    return result


def infer_types(model: ModelProto) -> dict[str, onnx.TypeProto]:
    """Return the freshly inferred type of every tensor.

    Raises:
        onnx.shape_inference.InferenceError: If types or shapes contradict each other.
    """
    return tensor_types(_inferred_skeleton(model))


def _inferred_skeleton(model: ModelProto) -> ModelProto:
    """Return what shape inference makes of a copy whose large weights have a type and a shape, but no values.

    Inference writes and parses the whole model twice; what it reads of a constant are numbers of axes, sizes and
    bounds, which are small.
    """
    large = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type not in _COUNTED and math.prod(tensor.dims) > _MAX_READ
    ]
    bare = copy_without_constants(model, {tensor.name for tensor in large})
    del bare.graph.value_info[:]
    for tensor in large:
        bare.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)


def tensor_shapes(model: ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of every tensor that the model declares, sizes or names of axes; see `tensor_types`.

    An axis of which nothing is known is "?"; a tensor without a shape is left out.
    """
    return {
        name: tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in shape.dim)
        for name, kind in tensor_types(model).items()
        if kind.tensor_type.HasField("shape")
        for shape in (kind.tensor_type.shape,)
    }


def tensor_types(model: ModelProto) -> dict[str, onnx.TypeProto]:
    """Return the type of every tensor that the model declares: inputs, outputs and value_info."""
    graph = model.graph
    return {info.name: info.type for infos in (graph.input, graph.value_info, graph.output) for info in infos}


def all_tensor_types(model: ModelProto) -> dict[str, onnx.TypeProto]:
    """Return the type of every tensor, inferred where the model does not declare them all."""
    return complete_types(model, (name for node in model.graph.node for name in node.output if name))


def complete_types(model: ModelProto, names: Iterable[str]) -> dict[str, onnx.TypeProto]:
    """Return the type of every tensor that the model declares, inferred where that leaves one of `names` out."""
    types = tensor_types(model)
    return types if types.keys() >= set(names) else infer_types(model)


def with_outputs(model: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """Return a copy in which `tensors` are graph outputs too, in the order given."""
    names = tuple(tensors)
    tapped = copy_model(model)
    types = complete_types(model, names)
    present = {info.name for infos in (tapped.graph.input, tapped.graph.output) for info in infos}
    for name in names:
        if name not in present:
            tapped.graph.output.append(onnx.ValueInfoProto(name=name, type=types[name]))
            present.add(name)
    return tapped
