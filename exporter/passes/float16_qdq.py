"""Type what an INT8 Q/DQ model leaves in float as FP16: scales, biases, Adds, heads.

Strongly typed networks (TensorRT 10 and newer, TensorRT-RTX) take every type from the file. In a Q/DQ file with float32
scales, DequantizeLinear returns float32, and what lies between two quantized convolutions, above all each residual
stream, is computed and moved in float32. With FP16 scales it is FP16, which halves that traffic. ONNX allows FP16
scales from opset 19 on.

A scale below the smallest normal FP16 number, 2^-14 (IEEE 754-2008, binary16), would lose its precision, or become 0,
which no reader takes. Such scales are raised to 2^-14, and weights behind them quantized anew on that grid.

Layers that a plain ONNX Runtime session would break in FP16 stay float32; see `passes.float32_layers`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.errors import ExportError, UnsupportedOpsetError, WeightsError
from exporter.graph.onnx_graph import array_from_initializer, attribute, initializer_from_array, opset_of
from exporter.passes.float16 import FLOAT16_MAX, typed_float16
from exporter.passes.float32_layers import DEQUANTIZE, QUANTIZE, separate_float32_layers
from exporter.target import MIN_FLOAT16_SCALE_OPSET

SMALLEST_SCALE = 2.0**-14
"""Smallest normal half-precision number."""

MAX_LOST = 0.01
"""Share of the energy of a layer's weights that rounding them anew may take: 20 dB. INT8 itself takes a hundredth."""

MIN_LEVELS = 16
"""Of 127 that a tensor's largest values need not to be noise; below, raising its scale is told as a loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Float16QdqModel:
    """The typed model, float32 in and out; `num_raised` of its scales were below `SMALLEST_SCALE`.

    Attributes:
        coarse: Weights and tensors for which raising left too few levels: name to the largest level.
        notes: What stays float32, and why.
    """

    model: ModelProto
    num_raised: int
    coarse: Mapping[str, int]
    notes: tuple[str, ...] = ()


def float16_qdq_from_float32(model: ModelProto) -> Float16QdqModel:
    """Return a copy of a Q/DQ model whose float32 parts are FP16; what is quantized (weights stored as INT8) stays.

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
    _check_scales_are_constants(model.graph)
    separated = separate_float32_layers(model)
    num_raised, coarse = _prepare_scales(separated.model.graph, separated.kept)
    typed = typed_float16(separated.model, kept=separated.kept)
    return Float16QdqModel(typed.model, num_raised, coarse, typed.skipped)


def _check_scales_are_constants(graph: GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE) and node.input[1] not in constants:
            raise ExportError(
                f"scale {node.input[1]!r} of {node.name or node.output[0]!r} is no constant; it cannot be typed"
            )


def _prepare_scales(graph: GraphProto, kept: Collection[str]) -> tuple[int, dict[str, int]]:
    """Round scales that FP16 nodes read to what FP16 holds, in place.

    Returns how many were below `SMALLEST_SCALE`, and the largest level of what that left too few levels.

    A pair's scale stays one number: where one side is FP16 and the other float32, the latter has the rounded number.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in constants and constants[name].data_type == TensorProto.FLOAT:
                readers[name].append((node, place))
    num_raised = 0
    coarse: dict[str, int] = {}
    for name, uses in readers.items():
        halves = [node for node, _ in uses if node.name not in kept]
        if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in halves):
            num_raised += _round_scale(constants, name, [node for node, _ in uses], coarse)
        if halves and len(halves) < len(uses):
            own = f"{name}.float32"
            graph.initializer.append(initializer_from_array(own, array_from_initializer(constants[name])))
            for node, place in uses:
                if node.name in kept:
                    node.input[place] = own
    return num_raised, coarse


def _round_scale(
    constants: Mapping[str, TensorProto], name: str, readers: Iterable[NodeProto], coarse: dict[str, int]
) -> int:
    """Round a scale to FP16's numbers from `SMALLEST_SCALE` on, in place, and put weights behind it on that grid.

    What that leaves too few levels is added to `coarse`.
    """
    scale = array_from_initializer(constants[name])
    if not scale.max() <= FLOAT16_MAX:
        raise WeightsError(
            f"{name!r} holds {scale.max():g}, more than FP16 can ({FLOAT16_MAX:g}); export without --fp16"
        )
    raised = np.maximum(scale, np.float32(SMALLEST_SCALE)).astype(np.float16).astype(np.float32)
    constants[name].CopyFrom(initializer_from_array(name, raised))
    low = scale < SMALLEST_SCALE
    weights = {node.input[0]: node for node in readers if node.input[0] in constants and node.op_type == DEQUANTIZE}
    for weight, node in weights.items():
        if low.any() and constants[weight].data_type == TensorProto.INT8:
            lost, level = _quantize_anew(constants[weight], scale, axis=int(attribute(node, "axis", 1)))
            if lost > MAX_LOST:
                coarse[weight] = level
    level = int(127 * scale.max() / SMALLEST_SCALE)
    if not weights and level < MIN_LEVELS:
        coarse[name.removesuffix(".scale")] = level
    return int(low.sum())


def _quantize_anew(weights: TensorProto, scale: NDArray[np.float32], *, axis: int) -> tuple[float, int]:
    """Put integers of a grid `scale` onto the grid that is at least `SMALLEST_SCALE` wide.

    Returns the share of their energy that this takes, and the largest level that is left.
    """
    integers = array_from_initializer(weights)
    shape = [1] * integers.ndim
    if scale.ndim:
        shape[axis] = -1
    raised = np.maximum(scale, np.float32(SMALLEST_SCALE))
    anew = np.rint(integers * (scale / raised).reshape(shape)).astype(np.int8)
    weights.CopyFrom(initializer_from_array(weights.name, anew))
    before, after = (
        values * steps.astype(np.float64).reshape(shape) for values, steps in ((integers, scale), (anew, raised))
    )
    lost = float(np.square(after - before).sum() / max(np.square(before).sum(), np.finfo(np.float64).tiny))
    return lost, int(np.abs(anew.astype(int)).max())
