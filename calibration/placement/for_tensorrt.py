"""Decide which tensors get a Q/DQ pair, and who reads the quantized copy.

The rules, in the dialect that TensorRT 8.6 to 11 and ONNX Runtime both read:

1. The data input of every Conv, Gemm and MatMul that has a constant weight, but for layers that compute a gate from
   globally pooled values (see `calibration.placement.channel_gates`).
2. The shortcut operand of every residual Add (see `placement.residual_adds`), and only that operand. For an identity
   shortcut it is the tensor that the block's first convolution reads too: one pair serves both.
3. What lies between two pairs, and the inputs of a Concat that goes on to quantized layers, with one scale where
   values are only moved (see `calibration.placement.shared_scales`).
4. Nothing else: no Q/DQ after a weighted layer (it would break Conv+Add+ReLU), none on bias, pools, normalization,
   gates, attention or outputs.

Nodes named in `keep_float` get none of it, as if rule 1 or 2 did not know them. An Add whose main path's convolution
stays in float has no INT8 kernel to fuse with: then its shortcut stays exact too.

Source: NVIDIA TensorRT documentation, "Explicit quantization", Q/DQ placement recommendations.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from calibration.errors import PlacementError
from calibration.methods.quantize_weight import QMAX
from calibration.placement.channel_gates import find_gates
from calibration.placement.residual_adds import ResidualAdd, find_residual_adds
from calibration.placement.shared_scales import Completion, float_tensors
from exporter.graph.onnx_graph import GraphIndex, attribute, index_graph, infer_shapes, tensor_types
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS, WEIGHTED_OPS

GATE = (
    "it computes a gate from globally pooled values, one per channel: INT8 saves nothing there, and TensorRT fuses the "
    "gate in float"
)
ATTENTION = "both factors are computed (attention): no weight to store in INT8, and softmax needs the range"
CONSTANT_FACTOR = "its first factor is the constant; only weights [in, out] on the right are quantized"

KEPT = "kept in float: asked for, or by the accuracy budget"
"""Why a node named in `keep_float` is skipped."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Input number `index` of node `node` reads the quantized copy of a tensor."""

    node: str
    index: int


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """One constant weight to store as INT8, with one scale per output channel along `axis` and levels up to `qmax`."""

    name: str
    axis: int
    qmax: int = QMAX


@dataclass(frozen=True, slots=True)
class QuantizedBias:
    """One constant bias to store as INT32, with the scale of its layer's sums.

    Attributes:
        name: What the INT32 constant is called: `source`, unless several layers share that.
        source: The float constant.
        node: The layer that reads it, as its input number 2.
        data: The layer's data input, whose scale times the weight's is the bias's.
        weight: The layer's weight.
    """

    name: str
    source: str
    node: str
    data: str
    weight: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where Q/DQ goes.

    Attributes:
        activations: Tensor name to the readers of its quantized copy, in graph order.
        weights: The weights to quantize, each once, in graph order.
        residual_adds: The residual additions whose shortcut is quantized.
        num_adds: All additions of two computed tensors, matched or not.
        skipped: Why a node stays in float, `<node>: <reason>` each.
        biases: The biases to quantize; none in the TensorRT dialect.
        same_range: Activation to the activation whose range it takes, where that is not a matter of course.
        shared_scales: Groups of tensors that have one scale, that of all their values together, in graph order.
    """

    activations: Mapping[str, tuple[Reader, ...]]
    weights: tuple[QuantizedWeight, ...]
    residual_adds: tuple[ResidualAdd, ...]
    num_adds: int
    skipped: tuple[str, ...]
    biases: tuple[QuantizedBias, ...] = ()
    same_range: Mapping[str, str] = field(default_factory=dict)
    shared_scales: tuple[tuple[str, ...], ...] = ()


def place_qdq(model: ModelProto, keep_float: Collection[str] = ()) -> Placement:
    """Return where Q/DQ goes in a folded float model, by the rules of the module docstring.

    Args:
        model: The folded float model.
        keep_float: Names of nodes that stay in float; naming a node that nothing quantizes changes nothing.

    Raises:
        PlacementError: If two nodes share a name or a node has none: readers are told apart by it. Or if no node has
            a name of `keep_float`.
    """
    check_node_names(model.graph)
    typed = _with_shapes(model)
    graph_inputs = {info.name for info in model.graph.input}
    index = index_graph(model.graph)
    gates = find_gates(typed)
    kept = kept_nodes(model.graph, index, keep_float)
    residuals = find_residual_adds(typed)
    shortcuts = {add.name: add for add in residuals.matched}
    readers: dict[str, list[tuple[str, int]]] = {}
    weights: dict[str, QuantizedWeight] = {}
    skipped = list(residuals.skipped)
    for node in model.graph.node:
        if node.op_type in ALL_WEIGHTED_OPS:
            reason = why_not_quantized(node, index, graph_inputs) or (GATE if node.name in gates.layers else "")
            if reason := reason or kept.get(node.name, ""):
                skipped.append(f"{node.name}: {reason}")
                continue
            readers.setdefault(node.input[0], []).append((node.name, 0))
            weights[node.input[1]] = QuantizedWeight(node.input[1], output_channel_axis(node))
        elif add := shortcuts.get(node.name):
            if reason := why_add_stays_float(add, index, kept):
                skipped.append(f"{node.name}: {reason}")
                del shortcuts[node.name]
                continue
            readers.setdefault(add.shortcut, []).append((node.name, add.shortcut_index))
    completion = Completion(model.graph, index, float_tensors(typed), gates.pooled, readers)
    completion.run()
    order = dict.fromkeys(graph_inputs, -1) | dict(index.position)
    return Placement(
        activations={
            name: tuple(Reader(*found) for found in sorted(readers[name], key=lambda it: index.node_position[it[0]]))
            for name in sorted(readers, key=lambda name: order[name])
        },
        weights=tuple(weights.values()),
        residual_adds=tuple(shortcuts.values()),
        num_adds=len(residuals.matched) + len(residuals.skipped),
        skipped=tuple(skipped),
        shared_scales=completion.groups.groups(order),
    )


def _with_shapes(model: ModelProto) -> ModelProto:
    """Return the model itself if it declares its tensors' shapes, else a copy that does."""
    declared = tensor_types(model)
    if all(name in declared for node in model.graph.node for name in node.output if name):
        return model
    return infer_shapes(model)


def check_node_names(graph: GraphProto) -> None:
    """Raise PlacementError unless every node has a name of its own."""
    names = Counter(node.name for node in graph.node)
    if bad := [name for name, count in names.items() if count > 1 or not name]:
        raise PlacementError(
            f"{names[bad[0]]} nodes are called {bad[0]!r}, expected a name of its own for each; name them before "
            "placing Q/DQ"
        )


def kept_nodes(graph: GraphProto, index: GraphIndex, keep_float: Collection[str]) -> dict[str, str]:
    """Return name to reason of every node that stays in float on demand: those named, and those sharing their weights.

    Raises:
        PlacementError: If no node has one of the names.
    """
    names = [node.name for node in graph.node]
    if unknown := sorted(set(keep_float) - set(names)):
        near = difflib.get_close_matches(unknown[0], names, n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise PlacementError(f"keep_float: got {unknown[0]!r}, expected the name of a node of the model{hint}")
    kept = dict.fromkeys(keep_float, KEPT)
    for node in graph.node:
        if node.name in keep_float and node.op_type in WEIGHTED_OPS and len(node.input) > 1:
            for use in index.uses[node.input[1]]:
                kept.setdefault(use.node.name, f"its weight is that of {node.name}, which is {KEPT}")
    return kept


def why_add_stays_float(add: ResidualAdd, index: GraphIndex, kept: Mapping[str, str]) -> str:
    """Return why a residual Add must stay in float because of `kept_nodes`, or an empty string."""
    main = index.producer[add.main].name
    return kept.get(add.name) or (f"the convolution of its main path, {main}, is {KEPT}" if main in kept else "")


def output_channel_axis(node: NodeProto) -> int:
    """Return the output-channel axis: 0 for Conv [O, I, kH, kW] and Gemm with transB = 1 [O, I], else 1 [I, O]."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) == 1 else 1


def why_not_quantized(node: NodeProto, index: GraphIndex, graph_inputs: set[str]) -> str:
    """Return why a weighted node must stay in float, or an empty string."""
    weight = index.initializer.get(node.input[1])
    if node.op_type == "ConvTranspose":
        return "a transposed convolution; TensorRT's INT8 has no kernel for most of them"
    if node.op_type == "MatMul" and weight is None:
        return CONSTANT_FACTOR if node.input[0] in index.initializer else ATTENTION
    if node.op_type == "MatMul" and weight is not None and len(weight.dims) != 2:
        return f"its weight {weight.name!r} has {len(weight.dims)} axes, expected [in, out]"
    if weight is None:
        return f"its weight {node.input[1]!r} is not a constant"
    if weight.name in graph_inputs:
        return f"its weight {weight.name!r} is a graph input, which callers may replace"
    if weight.data_type != TensorProto.FLOAT:
        return f"its weight {weight.name!r} is {TensorProto.DataType.Name(weight.data_type)}, not float32"
    if node.input[0] in index.initializer:
        return f"its data input {node.input[0]!r} is a constant"
    if node.input[1] in index.outputs:
        return f"its weight {node.input[1]!r} is a graph output"
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "transA", 0)):
        return "Gemm with alpha != 1 or transA"
    uses = index.uses[node.input[1]]
    axes = {output_channel_axis(use.node) for use in uses if use.node.op_type in WEIGHTED_OPS}
    if len(axes) > 1 or any(use.node.op_type not in WEIGHTED_OPS or use.place != 1 for use in uses):
        return f"its weight {node.input[1]!r} is also used in another way"
    return ""
