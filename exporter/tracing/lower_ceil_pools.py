"""Pools with ceil_mode as pools with padding, so that every reader computes the size that PyTorch does.

    out  = ceil((in + begin + end - k) / s) + 1,  less 1 where the last window would start in the padding at the end
    end' = (out - 1) s + k - in - begin           with k = dilation (kernel - 1) + 1

PyTorch and ONNX Runtime drop a last window that starts in the padding; ONNX's shape inference does so from opset 22 on,
but not before, so that a file declares 12 x 12 where 11 x 11 are computed. With `end'` and without ceil_mode there is
nothing to disagree about. MaxPool and LpPool ignore padding, and so does an average over what lies inside
(count_include_pad = 0). An average that counts its padding (PyTorch's default) counts `begin` and `end`, but not what
ceil_mode adds: the zeros become a Pad of their own, and the average counts what lies inside of that:

    AveragePool(x, pads, ceil_mode, count_include_pad)  ->  AveragePool(Pad(x, begin, end), end' - end)

Sources: PyTorch, aten/src/ATen/native/Pool.h (pooling_output_shape_pad_lr); ONNX, Changelog.md, MaxPool-22 and
AveragePool-22. ONNX Runtime's integer AveragePool divides border windows wrongly where ceil_mode meets
count_include_pad (seen with 1.31.1), which this form avoids as well.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from exporter.errors import ExportError
from exporter.graph import onnx_graph

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def lower_ceil_pools(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy, for images of fixed size, in which no pool has ceil_mode and no declared shape contradicts it.

    Raises:
        ExportError: If the size of a pool's input cannot be told.
    """
    result = onnx_graph.copy_model(model)
    num_changes = 0
    while any(_is_ceil(node) for node in result.graph.node):
        num_changes += _lower_until_a_shape_changes(result)
    if num_changes:
        del result.graph.value_info[:]
    return onnx_graph.PassResult(result, num_changes)


def _is_ceil(node: NodeProto) -> bool:
    """Tell whether ceil_mode decides about the size; with auto_pad SAME the stride alone does."""
    same = onnx_graph.attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return node.op_type in _POOLS and bool(onnx_graph.attribute(node, "ceil_mode", 0)) and not same


def _lower_until_a_shape_changes(model: ModelProto) -> int:
    """Rewrite pools in graph order, in place, up to one behind which inferred shapes were wrong; return how many."""
    shapes = _inferred_shapes(model)
    nodes: list[NodeProto] = []
    count, is_known = 0, True
    for node in model.graph.node:
        if is_known and _is_ceil(node):
            sizes = _spatial(node, shapes)
            pads, size = _explicit_pads(node, sizes)
            nodes += _zero_padding(model, node, sizes) if _counts_padding(node) else []
            _set_pads(node, pads)
            count += 1
            is_known = tuple(shapes.get(node.output[0], ())[2:]) == size
        nodes.append(node)
    onnx_graph.replace_nodes(model.graph, nodes)
    return count


def _inferred_shapes(model: ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Return shapes without strictness: behind a pool that is still to be rewritten they may contradict the file."""
    bare = onnx_graph.copy_model(model)
    del bare.graph.value_info[:]
    return onnx_graph.tensor_shapes(onnx.shape_inference.infer_shapes(bare, data_prop=True))


def _spatial(node: NodeProto, shapes: dict[str, tuple[int | str, ...]]) -> list[int]:
    sizes = shapes.get(node.input[0], ())[2:]
    if len(sizes) != len(onnx_graph.attribute(node, "kernel_shape")) or not all(
        isinstance(size, int) for size in sizes
    ):
        raise ExportError(
            f"{node.op_type} {node.name or node.output[0]!r} rounds its size up (ceil_mode), and the size of its input "
            f"is {list(sizes) or 'unknown'}; export with a fixed image size"
        )
    return [int(size) for size in sizes]


def _explicit_pads(node: NodeProto, sizes: list[int]) -> tuple[list[int], tuple[int, ...]]:
    """Return the pads, begins first, that give PyTorch's size without ceil_mode, and that size."""
    rank = len(sizes)
    kernel, strides = onnx_graph.attribute(node, "kernel_shape"), onnx_graph.attribute(node, "strides", [1] * rank)
    dilations = onnx_graph.attribute(node, "dilations", [1] * rank)
    pads = _own_pads(node, rank)
    ends, outs = [], []
    for axis, size in enumerate(sizes):
        begin, end = pads[axis], pads[rank + axis]
        window, stride = dilations[axis] * (kernel[axis] - 1) + 1, strides[axis]
        out = -(-(size + begin + end - window) // stride) + 1
        if (out - 1) * stride >= size + begin:
            out -= 1
        ends.append(max(0, (out - 1) * stride + window - size - begin))
        outs.append(out)
    return [*pads[:rank], *ends], tuple(outs)


def _own_pads(node: NodeProto, rank: int) -> list[int]:
    is_valid = onnx_graph.attribute(node, "auto_pad", b"NOTSET") == b"VALID"
    return [0] * (2 * rank) if is_valid else list(onnx_graph.attribute(node, "pads", [0] * (2 * rank)))


def _counts_padding(node: NodeProto) -> bool:
    """Tell whether the pool averages over zeros that it pads itself."""
    counts = node.op_type == "AveragePool" and onnx_graph.attribute(node, "count_include_pad", 0)
    return bool(counts) and any(onnx_graph.attribute(node, "pads", ()))


def _zero_padding(model: ModelProto, node: NodeProto, sizes: list[int]) -> list[NodeProto]:
    """Return a Pad that puts the pool's zeros in; the pool reads it, and pads no more than ceil_mode adds."""
    rank = len(sizes)
    own = _own_pads(node, rank)
    name = f"{node.name or node.output[0]}.zeros"
    amounts = [0, 0, *own[:rank], 0, 0, *own[rank:]]
    model.graph.initializer.append(onnx_graph.initializer_from_array(f"{name}.pads", np.asarray(amounts, np.int64)))
    pad = onnx.helper.make_node("Pad", [node.input[0], f"{name}.pads"], [name], name=name, mode="constant")
    node.input[0] = name
    return [pad]


def _set_pads(node: NodeProto, pads: list[int]) -> None:
    """Give the pool explicit pads and no ceil_mode, in place; the begins are 0 where a Pad made them."""
    if _counts_padding(node):
        own = _own_pads(node, len(pads) // 2)
        pads = [max(0, after - before) for after, before in zip(pads, own, strict=True)]
    onnx_graph.set_attributes(node, "ceil_mode", "auto_pad", "count_include_pad", pads=pads)
