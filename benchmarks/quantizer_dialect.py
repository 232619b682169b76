"""Which dialect a quantized file speaks, and how much of it is INT8: read from the file, never taken on trust.

TensorRT's explicit quantization takes INT8 with zero point 0, one scale per activation, float bias, and none of the
operators that compute on integers themselves.

Source: the parser of TensorRT 10.1 and TensorRT-RTX 1.7 ("Non-zero zero point is not supported", "input has type Int32
but must have type FP8, FP4, Int4, Int8, or UInt8"); UINT8 it accepts with a warning and computes as INT8, so that the
answers are others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

TENSORRT = "TensorRT"
OTHER = "ONNX Runtime"
FLOAT = "float"

_INTEGER_OPERATORS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_STANDARD_DOMAINS = {"", "ai.onnx"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a file's quantization is.

    Attributes:
        name: `TENSORRT`, `OTHER`, or `FLOAT` for a file without quantization.
        reasons: Why it is not TensorRT's, in words, without repetition; empty when it is.
        num_weighted: Conv, Gemm and MatMul nodes with a constant weight.
        num_integer: Those of them whose activation and weight both come out of DequantizeLinear: what runs in INT8.
    """

    name: str
    reasons: tuple[str, ...]
    num_weighted: int
    num_integer: int


def dialect_of(model: ModelProto | Path) -> Dialect:
    """Inspect a quantized ONNX file."""
    loaded = onnx.load(model) if isinstance(model, Path) else model
    constants = _constants(loaded)
    producers = {output: node for node in loaded.graph.node for output in node.output}
    weighted = [node for node in loaded.graph.node if _has_constant_weight(node, constants, producers)]
    quantized = any(_is_quantizing(node) for node in loaded.graph.node)
    reasons = tuple(dict.fromkeys(_reasons(loaded.graph.node, constants, producers)))
    name = FLOAT if not quantized else OTHER if reasons else TENSORRT
    num_integer = sum(node.op_type in _WEIGHTED and _reads_integers(node, producers) for node in weighted)
    num_integer += sum(node.op_type in _INTEGER_OPERATORS for node in weighted)
    return Dialect(name, reasons, len(weighted), num_integer)


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def _is_quantizing(node: NodeProto) -> bool:
    return node.op_type in {"QuantizeLinear", "DequantizeLinear"} | _INTEGER_OPERATORS or node.domain not in (
        _STANDARD_DOMAINS
    )


def _reasons(
    nodes: Iterable[NodeProto], constants: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]
) -> Iterable[str]:
    for node in nodes:
        if node.domain not in _STANDARD_DOMAINS:
            yield f"{node.domain}::{node.op_type}"
        elif node.op_type in _INTEGER_OPERATORS:
            yield f"operator {node.op_type}"
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from _pair_reasons(node, constants, producers)


def _pair_reasons(
    node: NodeProto, constants: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]
) -> Iterable[str]:
    what = "weights" if _is_constant(node.input[0], constants, producers) else "activations"
    quantized_type = _quantized_type(node, constants, producers)
    if quantized_type == "INT32":
        yield "INT32 bias"
    elif quantized_type != "INT8":
        yield f"{quantized_type} {what}"
    if len(node.input) > 2 and node.input[2]:
        zero_point = constants.get(node.input[2])
        if zero_point is None:
            yield f"computed zero point of {what}"
        elif np.any(numpy_helper.to_array(zero_point).astype(np.int64) != 0):
            yield f"asymmetric {what}"
    scale = constants.get(node.input[1])
    if scale is None:
        yield f"computed scale of {what}"
    elif what == "activations" and int(np.prod(scale.dims)) != 1:
        yield "several scales per activation"


def _quantized_type(node: NodeProto, constants: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]) -> str:
    """Return "INT8", "UINT8", ...: of the zero point, else of the attribute, else of the data or the default UINT8.

    Source: ONNX operator specification, QuantizeLinear-21 and DequantizeLinear-21.
    """
    if len(node.input) > 2 and node.input[2] in constants:
        return _type_name(constants[node.input[2]].data_type)
    if node.op_type == "QuantizeLinear":
        declared = next((item.i for item in node.attribute if item.name == "output_dtype"), 0)
        return _type_name(declared or TensorProto.UINT8)
    if node.input[0] in constants:
        return _type_name(constants[node.input[0]].data_type)
    producer = producers.get(node.input[0])
    if producer is not None and producer.op_type == "QuantizeLinear":
        return _quantized_type(producer, constants, producers)
    return "unknown type of"


def _type_name(data_type: int) -> str:
    name: str = TensorProto.DataType.Name(data_type)
    return name


def _is_constant(name: str, constants: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]) -> bool:
    """Tell whether a tensor is a constant, or a constant behind Q and DQ."""
    while name not in constants:
        producer = producers.get(name)
        if producer is None or producer.op_type not in ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape"):
            return False
        name = producer.input[0]
    return True


def _has_constant_weight(
    node: NodeProto, constants: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]
) -> bool:
    if node.op_type in _WEIGHTED:
        return _is_constant(node.input[1], constants, producers)
    return node.op_type in _INTEGER_OPERATORS and node.op_type != "DynamicQuantizeLinear"


def _reads_integers(node: NodeProto, producers: Mapping[str, NodeProto]) -> bool:
    """Tell whether activation and weight both come out of a DequantizeLinear, data movement between allowed."""
    return all(_is_dequantized(name, producers) for name in node.input[:2])


def _is_dequantized(name: str, producers: Mapping[str, NodeProto]) -> bool:
    producer = producers.get(name)
    while producer is not None and producer.op_type in ("Transpose", "Reshape", "Flatten", "Squeeze", "MaxPool"):
        producer = producers.get(producer.input[0])
    return producer is not None and producer.op_type == "DequantizeLinear"
