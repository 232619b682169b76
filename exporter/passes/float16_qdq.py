"""Type what an INT8 Q/DQ model leaves in float as FP16: scales, biases, Adds, heads.

Strongly typed networks (TensorRT 10 and newer, TensorRT-RTX) take every type from the file. In a Q/DQ file with float32
scales, DequantizeLinear returns float32, and what lies between two quantized convolutions, above all each residual
stream, is computed and moved in float32. With FP16 scales it is FP16, which halves that traffic. ONNX allows FP16
scales from opset 19 on.

A scale below the smallest normal FP16 number, 2^-14 (IEEE 754-2008, binary16), would lose its precision, or become 0,
which no reader takes. Such scales are raised to 2^-14, and weights behind them quantized anew on that grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from exporter.errors import ExportError, UnsupportedOpsetError
from exporter.graph.onnx_graph import array_from_initializer, attribute, copy_model, initializer_from_array, opset_of
from exporter.passes.float16 import typed_float16
from exporter.target import MIN_FLOAT16_SCALE_OPSET

SMALLEST_SCALE = 2.0**-14
"""Smallest normal half-precision number."""


@dataclass(frozen=True, slots=True, eq=False)
class Float16QdqModel:
    """The typed model.

    Attributes:
        model: Q/DQ with FP16 scales, float32 inputs and outputs.
        num_converted: Constants converted to FP16.
        num_raised: Scales that were below `SMALLEST_SCALE`, of channels and tensors.
    """

    model: ModelProto
    num_converted: int
    num_raised: int


def float16_qdq_from_float32(model: ModelProto) -> Float16QdqModel:
    """Return a copy whose float32 parts are FP16; what is quantized, and how, stays.

    Args:
        model: A Q/DQ model with float32 scales and INT8 weights stored as such.

    Raises:
        UnsupportedOpsetError: Below opset 19.
        WeightsError: If a constant lies outside half precision.
        ExportError: If a scale is no constant.
    """
    opset = opset_of(model)
    if opset < MIN_FLOAT16_SCALE_OPSET:
        raise UnsupportedOpsetError(
            f"FP16 scales need opset {MIN_FLOAT16_SCALE_OPSET}, the model has {opset}; choose another --target"
        )
    raised = copy_model(model)
    num_raised = _raise_scales(raised)
    typed = typed_float16(raised)
    return Float16QdqModel(typed.model, typed.num_changes, num_raised)


def _raise_scales(model: ModelProto) -> int:
    """Raise scales that FP16 cannot hold, in place, and return how many."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    done: dict[str, NDArray[np.float32]] = {}
    done_weights: set[str] = set()
    num_raised = 0
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        name = node.input[1]
        if name not in constants:
            raise ExportError(f"scale {name!r} of {node.name or node.output[0]!r} is no constant; it cannot be typed")
        if name not in done:
            done[name] = array_from_initializer(constants[name]).astype(np.float32)
            num_raised += int(np.sum(done[name] < SMALLEST_SCALE))
            constants[name].CopyFrom(initializer_from_array(name, np.maximum(done[name], np.float32(SMALLEST_SCALE))))
        weights = constants.get(node.input[0])
        if weights is None or weights.name in done_weights:
            continue
        done_weights.add(weights.name)
        if weights.data_type == TensorProto.INT8 and (done[name] < SMALLEST_SCALE).any():
            _quantize_anew(weights, done[name], axis=int(attribute(node, "axis", 1)))
    return num_raised


def _quantize_anew(weights: TensorProto, scale: NDArray[np.float32], *, axis: int) -> None:
    """Put integers of a grid `scale` onto the grid that is at least `SMALLEST_SCALE` wide."""
    integers = array_from_initializer(weights)
    shape = [1] * integers.ndim
    if scale.ndim:
        shape[axis] = -1
    ratio = (scale / np.maximum(scale, np.float32(SMALLEST_SCALE))).reshape(shape)
    weights.CopyFrom(initializer_from_array(weights.name, np.rint(integers * ratio).astype(np.int8)))
