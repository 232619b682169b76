"""Layers of float weights between Q/DQ pairs, for ONNX Runtime: written so that a plain session leaves them alone.

ONNX Runtime gives the float weights of a Conv, ConvTranspose or Gemm between a DequantizeLinear and a QuantizeLinear
INT8 of one scale, unasked (findings/onnxruntime_quantizes_float_weights.sh), but not where the bias is no constant. So
theirs becomes levels behind a DequantizeLinear, whose steps are powers of two, so that the numbers stay as they are:

    b = q 2^e    with |q| <= 2^24, for every float32 has 24 bits

Source: ONNX Runtime 1.32, core/optimizer/qdq_transformer/weight_bias_quantization.cc, the conditions to go on.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto

from exporter.graph.onnx_graph import (
    GraphIndex,
    array_from_initializer,
    attribute,
    index_graph,
    initializer_from_array,
    replace_nodes,
)
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS

_BITS = 24
_LEAST_EXPONENT = -120
"""Of the largest power in a bias: 2^-144 is a float32; what is smaller than 2^-120 keeps fewer bits."""
_PASSED = frozenset({"Relu", "Clip"})


def guard_float_layers(graph: GraphProto) -> int:
    """Write the biases of such layers as levels, in place; return how many layers there are."""
    index = index_graph(graph)
    layers = [node for node in graph.node if _would_be_quantized(node, index)]
    restoring = [_restore_bias(graph, node, index) for node in layers]
    replace_nodes(graph, [*restoring, *graph.node])
    return len(layers)


def exact_levels(values: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return levels and steps, int32 and float32 [C], whose products are float32 `values` [C] to the bit."""
    exponents = np.maximum(np.frexp(values)[1], _LEAST_EXPONENT) - _BITS
    steps = np.ldexp(np.float32(1), exponents)
    return np.rint(values.astype(np.float64) / steps).astype(np.int32), steps


def _would_be_quantized(node: NodeProto, index: GraphIndex) -> bool:
    """Tell whether ONNX Runtime gives the node INT8 weights of its own."""
    if node.op_type not in ALL_WEIGHTED_OPS - {"MatMul"}:
        return False
    read, weight = index.producer.get(node.input[0]), index.initializer.get(node.input[1])
    if read is None or read.op_type != "DequantizeLinear" or weight is None or weight.data_type != TensorProto.FLOAT:
        return False
    if len(node.input) > 2 and node.input[2]:
        bias = index.initializer.get(node.input[2])
        if bias is None or len(bias.dims) != 1 or not np.isfinite(array_from_initializer(bias)).all():
            return False
    return _leads_to_quantize(node.output[0], index)


def _leads_to_quantize(name: str, index: GraphIndex) -> bool:
    uses = index.uses.get(name, ())
    if len(uses) != 1 or name in index.outputs:
        return False
    reader = uses[0].node
    return reader.op_type == "QuantizeLinear" or (
        reader.op_type in _PASSED and _leads_to_quantize(reader.output[0], index)
    )


def _restore_bias(graph: GraphProto, node: NodeProto, index: GraphIndex) -> NodeProto:
    """Let the node read its bias from a DequantizeLinear, which is returned; one without a bias gets zeros."""
    given = node.input[2] if len(node.input) > 2 else ""
    values = array_from_initializer(index.initializer[given]) if given else np.zeros(_num_outputs(node, index), "f")
    levels, steps = exact_levels(values)
    stem = f"{node.name}.float_bias"
    while any(name in index.initializer or name in index.producer for name in (stem, f"{stem}.scale")):
        stem += "_"
    for name, array in ((stem, levels), (f"{stem}.scale", steps)):
        graph.initializer.append(initializer_from_array(name, array))
    node.input[2:] = [f"{stem}.dequantized"]
    inputs = [stem, f"{stem}.scale"]
    return onnx.helper.make_node("DequantizeLinear", inputs, node.input[2:], name=node.input[2], axis=0)


def _num_outputs(node: NodeProto, index: GraphIndex) -> int:
    dims = index.initializer[node.input[1]].dims
    if node.op_type == "Conv":
        return int(dims[0])
    if node.op_type == "ConvTranspose":
        return int(dims[1] * attribute(node, "group", 1))
    return int(dims[0 if attribute(node, "transB", 0) else 1])
