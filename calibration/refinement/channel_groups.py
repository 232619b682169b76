"""Find the tensors whose channels can be scaled together without changing what the model computes.

    producer:  y[c] = sum_j W[c, j] x[j] + b[c]        ->  row c of W and b[c] times s[c]
    between:   Relu, max and average pools, Add, ...   ->  f(s[c] x[c]) = s[c] f(x[c]) for s[c] > 0
    consumer:  z[o] = sum_c V[o, c] y[c]               ->  column c of V divided by s[c]

All tensors joined by the operators between form one group and carry one factor per channel: a chain Conv-Relu-Conv
is a group of two tensors; a whole stage of a ResNet, tied by its residual Adds, is one group too. A group that any
other operator, a graph input or a graph output touches cannot be scaled, and neither can one whose factors would have
to go into a constant that something else reads, that callers may replace, or that is not float32.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721,
section 4.1 (positive scaling equivariance), there for pairs of layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto

from exporter.graph.onnx_graph import GraphIndex, all_tensor_types, array_from_initializer, attribute, index_graph

_CHANNELWISE = frozenset(
    (
        "Relu",
        "LeakyRelu",
        "PRelu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "Dropout",
    )
)
"""f(s x) = s f(x) for s > 0, channel by channel (ONNX operator definitions; MaxPool pads with -inf, AveragePool with
zeros, PRelu's slope is a constant here)."""

_FLATTENING = frozenset(("Flatten", "Reshape", "Squeeze"))
_SPATIAL_AXES = [2, 3]
_SUBGRAPHS = frozenset((AttributeProto.GRAPH, AttributeProto.GRAPHS))

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Tensors that carry one factor per channel.

    Attributes:
        tensors: Their names, in graph order.
        producers: Nodes (Conv, Gemm, BatchNormalization) whose output is in the group.
        consumers: Nodes of the same kinds whose data input is in the group.
        num_channels: Length of the factor.
    """

    tensors: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    num_channels: int


def find_channel_groups(model: ModelProto) -> tuple[ChannelGroup, ...]:
    """Return the groups of a folded float model that can be scaled, in graph order.

    A group has at least one producer and one consumer, and every tensor in it the same known number of channels.

    Args:
        model: Float32 model whose nodes all have names of their own.
    """
    if any(part.type in _SUBGRAPHS for node in model.graph.node for part in node.attribute):
        return ()  # the body of an If or a Loop reads tensors that its node does not name
    index = index_graph(model.graph)
    shapes = {name: _shape(kind) for name, kind in all_tensor_types(model).items()}
    replaceable = {info.name for info in model.graph.input}
    links = _Links()
    fixed: set[str] = replaceable | set(index.outputs)
    producers: dict[str, str] = {}
    consumers: dict[str, list[str]] = defaultdict(list)
    for node in model.graph.node:
        data = [name for name in node.input if name and name not in index.initializer]
        if _can_be_scaled(node, index, replaceable):
            producers[node.output[0]] = node.name
            consumers[node.input[0]].append(node.name)
            links.add(node.output[0])
        elif _passes_factors(node, data, shapes, index):
            links.join([*data, node.output[0]])
        else:
            fixed.update((*data, *node.output))
    return tuple(
        group
        for tensors in links.classes(order=(*replaceable, *index.producer))
        if not fixed & set(tensors) and (group := _group(tensors, producers, consumers, shapes)) is not None
    )


def _group(
    tensors: list[str], producers: Mapping[str, str], consumers: Mapping[str, list[str]], shapes: Mapping[str, Shape]
) -> ChannelGroup | None:
    channels = {shapes[name][1] if len(shapes.get(name, ())) > 1 else None for name in tensors}
    num_channels = channels.pop()
    made = tuple(producers[name] for name in tensors if name in producers)
    read = tuple(node for name in tensors for node in consumers.get(name, ()))
    if channels or num_channels is None or not made or not read:
        return None
    return ChannelGroup(tuple(tensors), made, read, num_channels)


def _can_be_scaled(node: NodeProto, index: GraphIndex, replaceable: set[str]) -> bool:
    """Tell whether rows and columns of the node's constants can absorb factors."""
    if node.op_type not in ("Conv", "Gemm", "BatchNormalization") or node.input[0] in index.initializer:
        return False
    for name in filter(None, node.input[1:]):
        constant = index.initializer.get(name)
        own = constant is not None and constant.data_type == TensorProto.FLOAT and len(index.uses[name]) == 1
        if not own or name in index.outputs or name in replaceable:
            return False
    if node.op_type == "BatchNormalization":  # in training it measures mean and variance instead of reading them
        return attribute(node, "training_mode", 0) == 0 and len(node.output) == 1
    return node.op_type == "Conv" or _is_plain_gemm(node, index)


def _is_plain_gemm(node: NodeProto, index: GraphIndex) -> bool:
    """Tell whether a Gemm is x W + b with one bias per output."""
    weight = index.initializer[node.input[1]]
    num_outputs = weight.dims[0 if attribute(node, "transB", 0) else 1]
    has_bias = len(node.input) > 2 and node.input[2] != ""
    return (
        attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        and not attribute(node, "transA", 0)
        and (not has_bias or list(index.initializer[node.input[2]].dims) == [num_outputs])
    )


def _passes_factors(node: NodeProto, data: list[str], shapes: Mapping[str, Shape], index: GraphIndex) -> bool:
    """Tell whether factors on the node's data inputs come out as the same factors on its output."""
    if not data or any(len(shapes.get(name, ())) < 2 for name in (*data, node.output[0])):
        return False
    if node.op_type == "Add":
        return len(data) == 2 and shapes[data[0]][1:] == shapes[data[1]][1:] and None not in shapes[data[0]][1:]
    if data != [node.input[0]] or len(node.output) != 1:
        return False
    if node.op_type == "ReduceMean":
        return _reduced_axes(node, len(shapes[data[0]]), index) == _SPATIAL_AXES
    if node.op_type in _FLATTENING:
        before, after = shapes[data[0]], shapes[node.output[0]]
        return len(after) == 2 and after[1] is not None and after[1] == before[1] and set(before[2:]) <= {1}
    return node.op_type in _CHANNELWISE


def _reduced_axes(node: NodeProto, rank: int, index: GraphIndex) -> list[int] | None:
    """Return the axes of a reduction, an attribute before opset 18 and an input from then on; None where not known."""
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1] in index.initializer:
        axes = array_from_initializer(index.initializer[node.input[1]]).tolist()
    return None if axes is None else sorted(axis % rank for axis in axes)


def _shape(kind: TypeProto) -> Shape:
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


class _Links:
    """Disjoint sets of tensor names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Make `name` known."""
        self._parent.setdefault(name, name)

    def join(self, names: Iterable[str]) -> None:
        """Make `names` one class."""
        first, *others = names
        for name in (first, *others):
            self.add(name)
        for name in others:
            self._parent[self._root(name)] = self._root(first)

    def classes(self, *, order: Iterable[str]) -> list[list[str]]:
        """Return the classes, each and all in the given order of names."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in order:
            if name in self._parent:
                found[self._root(name)].append(name)
        return list(found.values())

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name
