"""Which layers of a Q/DQ model stay float32 when the rest becomes FP16, because ONNX Runtime would break them.

A layer whose result goes straight to a QuantizeLinear (behind Relu, Clip or what only moves values) runs on integers
from end to end: TensorRT fuses it into one kernel, and the float type between its DequantizeLinear and its
QuantizeLinear is the type of nothing that is stored. But a plain ONNX Runtime session turns the bias of such a layer
into INT32 by arithmetic of that type, round(bias / (input scale * weight scale)), and in FP16 that passes 65504 where
bias is a few times larger than what one product of the layer can give: the answers are garbage. So

    Conv, ConvTranspose   stay float32 with all that lies between their pairs: nothing of it is traffic
    Gemm                  gives its bias to an Add behind it, which TensorRT's parser makes of it anyway

Such a session also makes a Concat between pairs a QLinearConcat, which has no form with FP16 scales, so that the file
does not open (of what it replaces only this one: the others stay as they are where a scale is FP16). Therefore

    Concat                stays float32 with all that lies between its pairs, where it does nothing but collect

Source: ONNX Runtime 1.31, core/optimizer/qdq_transformer/weight_bias_quantization.cc and selectors_actions; which
graphs they take was tried, biases with 1.30, 1.31 and 1.32, Concat with 1.31 (tests/exporter/passes/
test_float32_layers.py); onnx-tensorrt, importer of Gemm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.graph import onnx_graph
from exporter.graph.weighted_ops import MOVING_OPS

COMMUTING_OPS = MOVING_OPS | {"Relu", "Clip", "Dropout"}
"""Operators that may stand between a layer and its QuantizeLinear: they move, choose or clip values."""

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, slots=True, eq=False)
class Float32Layers:
    """A Q/DQ model whose `kept` nodes stay float32: no constant and no DequantizeLinear of it serves both types."""

    model: ModelProto
    kept: frozenset[str]


def separate_float32_layers(model: ModelProto) -> Float32Layers:
    """Return a copy, nodes uniquely named, whose fully quantized layers can stay float32 when others become FP16."""
    result = onnx_graph.copy_model(model)
    graph = result.graph
    _split_gemm_biases(graph)
    index = onnx_graph.index_graph(graph)
    kept: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and _has_quantized_operands(node, index):
            kept.update(found.name for found in chain_to_quantize(node, index))
        if node.op_type == "Concat":
            kept.update(found.name for found in _collected(node, index))
    inputs = {info.name for info in graph.input if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    kept |= {node.name for node in graph.node if node.op_type == QUANTIZE and _is_float32(node, inputs, kept, index)}
    kept |= _separate_dequantizers(graph, kept)
    return Float32Layers(result, frozenset(kept))


def _is_float32(quantize: NodeProto, inputs: set[str], kept: set[str], index: onnx_graph.GraphIndex) -> bool:
    """Tell whether what a QuantizeLinear reads is float32: made by a kept node, or an input for one."""
    maker = index.producer.get(quantize.input[0])
    if maker is not None or quantize.input[0] not in inputs:
        return maker is not None and maker.name in kept
    pairs = [use.node for use in index.uses.get(quantize.output[0], ())]
    return any(use.node.name in kept for pair in pairs for use in index.uses.get(pair.output[0], ()))


def _has_quantized_operands(node: NodeProto, index: onnx_graph.GraphIndex) -> bool:
    makers = [index.producer.get(name) for name in node.input[:2]]
    return len(node.input) > 2 and all(maker is not None and maker.op_type == DEQUANTIZE for maker in makers)


def _collected(concat: NodeProto, index: onnx_graph.GraphIndex) -> list[NodeProto]:
    """Return a Concat and all between it and the pairs around it; nothing where a value comes or goes without one.

    ONNX Runtime moves a pair through an operator that commutes with it and has one reader, up to the Concat.
    """
    between = chain_to_quantize(concat, index)
    for name in concat.input:
        maker = index.producer.get(name)
        while maker is not None and maker.op_type in COMMUTING_OPS and len(index.uses[maker.output[0]]) == 1:
            between.append(maker)
            maker = index.producer.get(maker.input[0])
        if maker is None or maker.op_type != DEQUANTIZE:
            return []
    return between


def chain_to_quantize(node: NodeProto, index: onnx_graph.GraphIndex) -> list[NodeProto]:
    """Return a layer and what lies between it and its QuantizeLinear; nothing where it leads not straight to one."""
    chain = [node]
    while chain[-1].output[0] not in index.outputs:
        uses = index.uses.get(chain[-1].output[0], ())
        if uses and all(use.node.op_type == QUANTIZE for use in uses):
            return chain
        if len(uses) != 1 or uses[0].place != 0 or uses[0].node.op_type not in COMMUTING_OPS:
            break
        chain.append(uses[0].node)
    return []


def _split_gemm_biases(graph: GraphProto) -> None:
    """Put the bias of every fully quantized Gemm into an Add behind it, in place."""
    index = onnx_graph.index_graph(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        bias = index.initializer.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is None or not _has_quantized_operands(node, index) or not chain_to_quantize(node, index):
            continue
        result, product, name = node.output[0], f"{node.name}.product", f"{node.name}.added"
        values = onnx_graph.array_from_initializer(bias) * np.float32(onnx_graph.attribute(node, "beta", 1.0))
        graph.initializer.append(onnx_graph.initializer_from_array(name, values))
        del node.input[2:]
        node.output[0] = product
        nodes.append(onnx.helper.make_node("Add", [product, name], [result], name=name))
    onnx_graph.replace_nodes(graph, nodes)


def _separate_dequantizers(graph: GraphProto, kept: set[str]) -> set[str]:
    """Give the kept layers DequantizeLinear nodes and constants of their own, in place; return the former's names."""
    index = onnx_graph.index_graph(graph)
    own: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        uses = index.uses.get(node.output[0], ()) if node.op_type == DEQUANTIZE else ()
        readers = [use for use in uses if use.node.name in kept]
        if not readers:
            continue
        if len(readers) == len(uses) and node.output[0] not in index.outputs:
            own.add(node.name)
            continue
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = f"{node.name}.float32", f"{node.output[0]}.float32"
        for use in readers:
            use.node.input[use.place] = copy.output[0]
        own.add(copy.name)
        nodes.append(copy)
    onnx_graph.replace_nodes(graph, nodes)
    return own
