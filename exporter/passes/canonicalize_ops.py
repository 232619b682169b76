"""Spell operators in the form that every target reads.

`torch.onnx.export` writes the global average pool as ReduceMean over the last two axes, with the axes as a second
input, and `torch.flatten` as Reshape to [batch, C]. TensorRT 8.6 reads no axes from an input and averages over
everything (facts of its onnx parser, `builtin_op_importers.cpp`), and the Reshape hides that the batch is kept. So:

    ReduceMean(x, axes = last two, keepdims = 1)  ->  GlobalAveragePool(x)
    AveragePool(x), one window over all of x      ->  GlobalAveragePool(x)
    Reshape([N, C, 1, 1], to [batch, C])          ->  Flatten(axis = 1)
    Reshape([N, C, ...], to [batch, C, ...])      ->  x
    Identity(x), Dropout(x), Concat(x) alone      ->  x
    Mul(y, Expand(x)), where Mul broadcasts x     ->  Mul(y, x), and so for Add, Sub, Div
    CastLike(c, x), the type of x known           ->  Cast(c)
    Reduce*(x, noop_with_empty_axes = 0)          ->  Reduce*(x), its default, which opset 17 does not know
    Max(Min(Relu(x), 6), 0), from 0 to a constant ->  Clip(x, 0, 6), or Relu(x) where nothing limits it above

Files out of TensorFlow pool a known picture by one window, for squeeze-and-excitation and before the head, and reshape
what that gives to its own shape: neither is seen as a gate (`calibration/placement/channel_gates.py`). The Expand takes
the batch at run time (Shape, Concat) to say what broadcasting says anyway. The last but one is for means that keep no
axes, such as `x.mean((2, 3))`, and other reductions: onnx's version converter leaves the attribute in, and its own
checker then refuses the file. Limits taken one by one are how files out of TensorFlow write ReLU6
(`tf.clip_by_value`); only Relu and Clip are seen as rectifiers, by quantizers and by what fuses kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.graph import onnx_graph
from exporter.graph.unstable_nodes import is_idle_dropout

Ranks = dict[str, "tuple[int | str, ...]"]
_BROADCASTING = ("Mul", "Add", "Sub", "Div")


def canonical_ops(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy with the rewrites of the module docstring applied."""
    result = onnx_graph.copy_model(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    typed = onnx_graph.infer_shapes(result)
    shapes, types = onnx_graph.tensor_shapes(typed), onnx_graph.tensor_types(typed)
    num_changes = 0
    for node in result.graph.node:
        if _is_global_average_pool(node, constants, shapes):
            _become(node, "GlobalAveragePool")
        elif _is_flatten(node, constants, shapes):
            _become(node, "Flatten", axis=1)
        elif _keeps_shape(node, constants, shapes):
            _become(node, "Identity")
        elif node.op_type == "CastLike" and (kind := types.get(node.input[1])) is not None:
            _become(node, "Cast", to=kind.tensor_type.elem_type)
        elif node.op_type.startswith("Reduce") and onnx_graph.attribute(node, "noop_with_empty_axes") == 0:
            onnx_graph.set_attributes(node, "noop_with_empty_axes")
        else:
            continue
        num_changes += 1
    num_changes += _join_limits(result, shapes)
    num_changes += _drop_expands(result, shapes)
    num_changes += _drop_identities(result)
    onnx_graph.remove_dead_nodes(result.graph)
    return onnx_graph.PassResult(result, num_changes)


def _is_global_average_pool(node: NodeProto, constants: Mapping[str, TensorProto], shapes: Ranks) -> bool:
    if node.op_type == "AveragePool":
        whole = shapes.get(node.input[0], ())[2:]
        # One window, so that strides and ceil_mode say nothing; without padding, neither does count_include_pad.
        is_plain = not any(onnx_graph.attribute(node, "pads", ())) and not onnx_graph.pads_by_rule(node)
        kernel = tuple(onnx_graph.attribute(node, "kernel_shape"))
        return (
            len(kernel) == 2
            and kernel == whole
            and is_plain
            and set(onnx_graph.attribute(node, "dilations", (1,))) == {1}
        )
    if node.op_type != "ReduceMean" or onnx_graph.attribute(node, "keepdims", 1) != 1:
        return False
    rank = len(shapes.get(node.input[0], ()))
    if len(node.input) > 1 and node.input[1] in constants:
        axes = onnx_graph.array_from_initializer(constants[node.input[1]]).tolist()
    else:
        axes = list(onnx_graph.attribute(node, "axes", ()))
    return rank == 4 and sorted(axis % rank for axis in axes) == [2, 3]


def _is_flatten(node: NodeProto, constants: Mapping[str, TensorProto], shapes: Ranks) -> bool:
    """Match a Reshape from [N, ...] to [N, the product of all other axes], which leaves no choice for N."""
    if node.op_type != "Reshape":
        return False
    before = shapes.get(node.input[0], ())
    if len(before) < 3 or not all(isinstance(size, int) and size > 0 for size in before[1:]):
        return False
    product = math.prod(int(size) for size in before[1:])
    if node.input[1] not in constants:
        return len(after := shapes.get(node.output[0], ())) == 2 and after[1] == product
    target = onnx_graph.array_from_initializer(constants[node.input[1]]).tolist()
    keeps_batch = target[:1] == [-1] or (target[:1] == [0] and not onnx_graph.attribute(node, "allowzero", 0))
    return keeps_batch and target[1:] == [product]


def _keeps_shape(node: NodeProto, constants: Mapping[str, TensorProto], shapes: Ranks) -> bool:
    """Match a Reshape to the shape that its input has, where at most the batch is unknown."""
    if node.op_type != "Reshape" or node.input[1] not in constants or onnx_graph.attribute(node, "allowzero", 0):
        return False
    before = shapes.get(node.input[0], ())
    if len(before) < 2 or not all(isinstance(size, int) and size > 0 for size in before[1:]):
        return False
    first, *rest = onnx_graph.array_from_initializer(constants[node.input[1]]).tolist()
    same = tuple(size or known for size, known in zip(rest, before[1:], strict=False))
    return len(rest) == len(before) - 1 and same == before[1:] and first in (0, -1, before[0])


def _become(node: NodeProto, op_type: str, **attributes: int) -> None:
    """Turn a node with a constant second input into `op_type` on its first input, in place."""
    node.op_type = op_type
    del node.input[1:]
    onnx_graph.refill(node.attribute, (onnx.helper.make_attribute(name, value) for name, value in attributes.items()))


def _join_limits(model: ModelProto, shapes: Ranks) -> int:
    """Let one Relu or Clip do what Relu, Clip, Min and Max do one after another, in place; return how many Min and Max.

    Of limits [a, b] and then [c, d], what is left is the second cut applied to a and b. Only where that begins at 0.
    """
    index = onnx_graph.index_graph(model.graph)
    constants = index.initializer
    count = 0
    limits: dict[str, tuple[str, float, float, int]] = {}
    """Tensor to what is cut, from where to where, and how many Min and Max do it."""
    for node in model.graph.node:
        cut = _cut(node, constants, shapes)
        if cut is None:
            continue
        source, low, high = cut
        num_joined = int(node.op_type in ("Min", "Max"))
        if source in limits and len(index.uses[source]) == 1 and source not in index.outputs:
            source, *before, earlier = limits[source]
            low, high = (min(max(limit, low), high) for limit in before)
            num_joined += earlier
        limits[node.output[0]] = source, low, high, num_joined
    for node in model.graph.node:
        source, low, high, num_joined = limits.get(node.output[0], ("", 0.0, 0.0, 0))
        uses = index.uses.get(node.output[0], ())
        goes_on = len(uses) == 1 and node.output[0] not in index.outputs and uses[0].node.output[0] in limits
        if not num_joined or low != 0.0 or goes_on:
            continue
        node.op_type = "Relu" if np.isinf(high) else "Clip"
        onnx_graph.refill(node.attribute, ())
        names = [f"{node.output[0]}.least", f"{node.output[0]}.most"] if node.op_type == "Clip" else []
        onnx_graph.refill(node.input, [source, *names])
        for name, limit in zip(names, (low, high), strict=False):
            model.graph.initializer.append(onnx_graph.initializer_from_array(name, np.asarray(limit, np.float32)))
        count += num_joined
    return count


def _cut(node: NodeProto, constants: Mapping[str, TensorProto], shapes: Ranks) -> tuple[str, float, float] | None:
    """Return the tensor that a node cuts, from where and to where; None where it does something else."""
    if node.op_type == "Relu":
        return node.input[0], 0.0, np.inf
    if node.op_type == "Clip" and len(node.input) == 3 and all(name in constants for name in node.input[1:]):
        low, high = (onnx_graph.array_from_initializer(constants[name]) for name in node.input[1:])
        is_cut = low.dtype == np.float32 and low <= high
        return (node.input[0], float(low.reshape(())), float(high.reshape(()))) if is_cut else None
    if node.op_type not in ("Min", "Max") or len(node.input) != 2:
        return None
    for source, name in (node.input, node.input[::-1]):
        tensor = constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) > len(shapes.get(source, ())):
            continue
        limit = onnx_graph.array_from_initializer(tensor)
        if limit.size == 1 and np.isfinite(limit).all() and source not in constants:
            value = float(limit.reshape(()))
            return (source, -np.inf, value) if node.op_type == "Min" else (source, value, np.inf)
    return None


def _drop_expands(model: ModelProto, shapes: Ranks) -> int:
    """Let operators that broadcast read what an Expand expands, in place; return how many Expands were passed by."""
    index = onnx_graph.index_graph(model.graph)
    count = 0
    for node in model.graph.node:
        if node.op_type != "Expand" or node.output[0] in index.outputs:
            continue
        uses = index.uses.get(node.output[0], ())
        rank = len(shapes.get(node.output[0], ()))
        others = [use.node.input[1 - use.place] for use in uses if use.node.op_type in _BROADCASTING]
        if len(others) == len(uses) and all(_covers(shapes.get(other, ()), shapes, node, rank) for other in others):
            for use in uses:
                use.node.input[use.place] = node.input[0]
            count += 1
    return count


def _covers(other: tuple[int | str, ...], shapes: Ranks, expand: NodeProto, rank: int) -> bool:
    """Tell whether broadcasting with a tensor of shape `other` gives what the Expand gives."""
    target = shapes.get(expand.output[0], ())
    if not rank or len(other) != rank:
        return False
    known = shapes.get(expand.input[0], ())
    small = (1,) * (rank - len(known)) + known
    return all(
        # Not stretched (the batch, whose name shape inference lost), or stretched to what the other one has anyway.
        (isinstance(narrow, str) and isinstance(wide, str)) or wide in (narrow, size)
        for wide, narrow, size in zip(target, small, other, strict=True)
    )


def _passes_on(node: NodeProto, graph: GraphProto) -> bool:
    """Tell whether a node gives back its one input."""
    if node.op_type == "Dropout":
        return is_idle_dropout(node, graph) and sum(bool(name) for name in node.output) == 1
    return node.op_type == "Identity" or (node.op_type == "Concat" and len(node.input) == 1)


def _drop_identities(model: ModelProto) -> int:
    """Remove nodes that pass on their input and whose output is not a graph output, in place; return how many."""
    graph = model.graph
    outputs = {output.name for output in graph.output}
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = alias.get(name, name)
        if _passes_on(node, graph) and not outputs & set(node.output):
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    onnx_graph.replace_nodes(graph, kept)
    return len(alias)
