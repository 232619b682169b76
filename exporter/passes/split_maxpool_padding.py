"""A pool behind a Pad of zeros, written so that no session makes the Pad the pool's own padding.

    MaxPool(Pad(x, 0))  ->  Max(MaxPool(x, pads), mask),   mask = 0 where the window touches the padding, else the least

A pool's own padding never wins, zeros do where all values are negative (the stem of BiT, which has no ReLU). ONNX
Runtime 1.31 fuses Pad and MaxPool as if both were the same, and answers wrongly
(tests/exporter/passes/test_split_maxpool_padding.py); this form is exact everywhere. Other pools (of one or three axes,
with dilation, ceil_mode or padding of their own, padding as wide as the window, of unknown size) read their Pad through
a Slice that takes everything, which that fusion does not look through:

    MaxPool(Pad(x, 0))  ->  MaxPool(Slice(Pad(x, 0)))

An AveragePool fuses rightly, but its session does not open where the padding is as wide as the window: then it gets
the Slice, too.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from exporter.graph import onnx_graph

LEAST = -65504.0
"""The least finite FP16 number, so that the mask can be typed FP16 like everything else."""

END = 2**31 - 1
"""The end of a Slice that takes everything: ONNX Runtime removes one that ends at INT64's largest, and fuses again."""


def split_zero_padding(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy with the rewrites of the module docstring; needs the shapes of the pools' outputs."""
    result = onnx_graph.copy_model(model)
    graph = result.graph
    index, shapes = onnx_graph.index_graph(graph), onnx_graph.tensor_shapes(model)
    nodes: list[NodeProto] = []
    count = 0
    for node in graph.node:
        pads = _zero_pads(node, index)
        size = shapes.get(node.output[0], ())[2:]
        if pads is None or len(size) != 2 or not all(isinstance(side, int) for side in size):
            if _fuses_wrongly(node, index):
                nodes.append(_read_through_slice(graph, node))
                count += 1
            nodes.append(node)
            continue
        nodes.append(node)
        pooled, mask = f"{node.output[0]}.pooled", f"{node.name}.padding"
        data = index.producer[node.input[0]].input[0]
        height, width = shapes[data][2:]
        values = _mask(node, pads, (int(size[0]), int(size[1])), (int(height), int(width)))
        graph.initializer.append(onnx_graph.initializer_from_array(mask, values))
        name, output = node.name, node.output[0]
        node.input[0] = data
        node.name, node.output[0] = f"{name}.pooled", pooled
        onnx_graph.set_attributes(node, "auto_pad", pads=pads)
        nodes.append(onnx.helper.make_node("Max", [pooled, mask], [output], name=name))
        count += 1
    onnx_graph.replace_nodes(graph, nodes)
    onnx_graph.remove_dead_nodes(graph)
    return onnx_graph.PassResult(result, count)


def _fuses_wrongly(pool: NodeProto, index: onnx_graph.GraphIndex) -> bool:
    """Return whether `pool` reads a Pad of zeros that it must not be given as its own padding."""
    pad = index.producer.get(pool.input[0]) if pool.op_type in ("MaxPool", "AveragePool") else None
    if pad is None or not _pads_zeros(pad, index):
        return False
    if pool.op_type == "MaxPool":
        return True
    amounts = index.initializer.get(pad.input[1])
    widest = 0 if amounts is None else int(onnx_graph.array_from_initializer(amounts).max())
    own = max(onnx_graph.attribute(pool, "pads", (0,)))
    return bool(widest + own >= min(onnx_graph.attribute(pool, "kernel_shape")))


def _pads_zeros(pad: NodeProto, index: onnx_graph.GraphIndex) -> bool:
    if pad.op_type != "Pad" or onnx_graph.attribute(pad, "mode", b"constant") != b"constant":
        return False
    value = pad.input[2] if len(pad.input) > 2 else ""
    return not value or (
        value in index.initializer and not onnx_graph.array_from_initializer(index.initializer[value]).any()
    )


def _read_through_slice(graph: GraphProto, pool: NodeProto) -> NodeProto:
    """Return a Slice of all that `pool` reads, and let the pool read it."""
    sliced, bounds = f"{pool.name}.padded", []
    for word, number in (("start", 0), ("end", END), ("axis", 2)):
        bounds.append(f"{sliced}.{word}")
        graph.initializer.append(onnx_graph.initializer_from_array(bounds[-1], np.array([number], np.int64)))
    node = onnx.helper.make_node("Slice", [pool.input[0], *bounds], [sliced], name=sliced)
    pool.input[0] = sliced
    return node


def _zero_pads(pool: NodeProto, index: onnx_graph.GraphIndex) -> list[int] | None:
    """Return [top, left, bottom, right] of the Pad before a pool that pads nothing itself, or None."""
    pad = index.producer.get(pool.input[0]) if pool.op_type == "MaxPool" else None
    if pad is None or pad.op_type != "Pad" or len(pool.output) != 1:
        return None
    if any(onnx_graph.attribute(pool, "pads", ())) or onnx_graph.attribute(pool, "ceil_mode", 0):
        return None
    if onnx_graph.pads_by_rule(pool) or set(onnx_graph.attribute(pool, "dilations", [1])) != {1}:
        return None
    constants = [index.initializer.get(name) for name in pad.input[1:3] if name]
    if onnx_graph.attribute(pad, "mode", b"constant") != b"constant" or not constants or None in constants:
        return None
    pads, *value = (onnx_graph.array_from_initializer(constant) for constant in constants if constant is not None)
    amounts = [int(amount) for amount in pads]
    if (value and float(value[0]) != 0.0) or len(pad.input) > 3 or len(amounts) != 8 or min(amounts) < 0:
        return None
    kernel = onnx_graph.attribute(pool, "kernel_shape")
    spatial = [amounts[place] for place in (2, 3, 6, 7)]
    if any(amounts[place] for place in (0, 1, 4, 5)) or any(a >= kernel[place % 2] for place, a in enumerate(spatial)):
        return None  # a pool refuses padding as wide as its window
    return spatial


def _mask(pool: NodeProto, pads: list[int], size: tuple[int, int], inner: tuple[int, int]) -> NDArray[np.float32]:
    """Return float32 [1, 1, H, W]: 0 where a window reaches beyond the unpadded input, else `LEAST`."""
    kernel, strides = onnx_graph.attribute(pool, "kernel_shape"), onnx_graph.attribute(pool, "strides", [1, 1])
    touches = []
    for axis in (0, 1):
        first = np.arange(size[axis]) * strides[axis] - pads[axis]
        touches.append((first < 0) | (first + kernel[axis] > inner[axis]))
    border = touches[0][:, np.newaxis] | touches[1][np.newaxis, :]
    return np.where(border, 0.0, LEAST).astype(np.float32)[np.newaxis, np.newaxis]
