"""The INT8 model for a DLA, which takes implicit quantization only: a float model beside a scale for every tensor.

What is quantized, and how finely, stays what the Q/DQ file says; only the notation changes.

    x -> Q(s) -> DQ(s) -> Conv          becomes   x -> Conv, and "x: s" in TensorRT's calibration cache
    W (int8) -> DQ(s[C]) -> Conv        becomes   the float weights W s, from which TensorRT finds s[C] again

The weights are those of the Q/DQ file, not of the float model: their channels were scaled and their biases corrected
for INT8. TensorRT takes max|w| / 127 of each output channel as its scale; `WeightScales` says how far that is off.

Where the Q/DQ file is silent, implicit quantization still wants a scale, else the layers around the tensor run in FP16:

1. Input of a ReLU, MaxPool, Flatten or Reshape, read by that alone: the scale of its output. Nothing changes by that,
   rounding and clipping commute with an operation that keeps the order of values (negative ones end at 0 either way).
2. Output of a convolution that goes into a residual Add, input of the last pool, the model's outputs: measured.
3. Output of an AveragePool: the scale of its input, as the DLA requires.

A layer whose weights the Q/DQ file leaves in float gets no scale around it that the file does not give.

Source: NVIDIA Deep-Learning-Accelerator-SW, qdq-translator README; NvInfer.h 10.3, DLA restrictions (INT8 pooling and
elementwise: equal ranges; with a calibrator the larger is used).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import MeanSquaredError
from calibration.methods.method import Method
from calibration.observers.observe_batches import OpenRuntime, observe_batches
from calibration.ranges.collect_ranges import Images, collect_ranges
from exporter.graph import onnx_graph
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS

_KEEPS_ORDER = ("Relu", "MaxPool", "Flatten", "Reshape", "Identity")
_POOLS_BY_MEAN = ("AveragePool", "GlobalAveragePool")


@dataclass(frozen=True, slots=True, eq=False)
class WeightScales:
    """The INT8 scales of one weight, and those that TensorRT will take.

    Attributes:
        ours: The Q/DQ file's, float32 [C].
        tensorrts: max|w| / 127 of each channel, float32 [C].
        axis: The axis of C.
    """

    ours: NDArray[np.float32]
    tensorrts: NDArray[np.float32]
    axis: int

    @property
    def largest_deviation(self) -> float:
        """How far TensorRT's is off, relative, in the worst channel; of channels of zeros no scale matters."""
        known = self.tensorrts > 0
        return float(np.abs(self.tensorrts[known] / self.ours[known] - 1).max(initial=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class StrippedModel:
    """A Q/DQ model in implicit quantization's notation.

    Attributes:
        model: The float model; tensors and nodes keep their names.
        scales: Activation to scale, as in the Q/DQ file, in graph order.
        weights: Weight to its scales.
    """

    model: ModelProto
    scales: dict[str, float]
    weights: dict[str, WeightScales]


def strip_qdq(model: ModelProto) -> StrippedModel:
    """Return the float model of a Q/DQ model in TensorRT's dialect, and the scales that were in it.

    Raises:
        CalibrationError: If there is no Q/DQ, or it is another dialect's: a zero point other than INT8 zero, scales
            that are not float32, or two scales for one tensor.
    """
    result = onnx_graph.copy_model(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    made_by = {name: node for node in result.graph.node for name in node.output}
    scales: dict[str, float] = {}
    weights: dict[str, WeightScales] = {}
    source: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in result.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            kept.append(node)
            continue
        scale = _scale_of(node, constants)
        if node.op_type == "QuantizeLinear":
            value = float(scale.reshape(()))
            if scales.setdefault(node.input[0], value) != value:
                raise CalibrationError(f"{node.input[0]!r} has two scales; a calibration cache holds one per tensor")
        elif node.input[0] in constants:
            tensor = constants[node.input[0]]
            axis = int(onnx_graph.attribute(node, "axis", 1)) if scale.ndim else 0
            restored, weights[tensor.name] = _dequantized(onnx_graph.array_from_initializer(tensor), scale, axis)
            tensor.CopyFrom(onnx_graph.initializer_from_array(tensor.name, restored))
            source[node.output[0]] = tensor.name
        else:
            source[node.output[0]] = made_by[node.input[0]].input[0]
    if not scales:
        raise CalibrationError("the model holds no Q/DQ on activations; give the INT8 file")
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
    onnx_graph.replace_nodes(result.graph, kept)
    onnx_graph.remove_unused_initializers(result.graph)
    onnx_graph.forget_gone_types(result.graph)
    return StrippedModel(result, scales, weights)


def _scale_of(node: NodeProto, constants: Mapping[str, onnx.TensorProto]) -> NDArray[np.float32]:
    scale = onnx_graph.array_from_initializer(constants[node.input[1]])
    zero_point = (
        onnx_graph.array_from_initializer(constants[node.input[2]]) if len(node.input) > 2 else np.zeros((), np.uint8)
    )
    if scale.dtype != np.float32 or zero_point.dtype != np.int8 or zero_point.any():
        raise CalibrationError(
            f"{node.name}: got {scale.dtype} scales and {zero_point.dtype} zero points, expected float32 and INT8 "
            "zeros: the INT8 file of a TensorRT target"
        )
    return np.asarray(scale, np.float32)


def _dequantized(
    values: NDArray[np.int8], scale: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.float32], WeightScales]:
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    restored = (values.astype(np.float32) * scale.reshape(shape if scale.ndim else ())).astype(np.float32)
    others = tuple(place for place in range(values.ndim) if place != axis)
    taken = np.abs(restored).max(axis=others) / np.float32(127)
    return restored, WeightScales(np.broadcast_to(scale, taken.shape), taken.astype(np.float32), axis)


def complete_scales(
    stripped: StrippedModel, batches: Iterable[Images], *, open_runtime: OpenRuntime, method: Method | None = None
) -> dict[str, float]:
    """Return the scale of every tensor that implicit quantization wants one for, in graph order.

    Args:
        stripped: What `strip_qdq` returned; its own scales are kept as they are.
        batches: Preprocessed images, float32 [n, C, H, W], on which the missing ranges are measured; consumed once, and
            not at all where nothing is missing.
        open_runtime: Opens the float model.
        method: How a range is chosen; mean squared error by default.

    Raises:
        CalibrationError: If there was no image.
        NonFiniteActivationError: If a tensor holds NaN or Inf.
    """
    scales = _backwards(stripped.model, stripped.scales)
    missing = _without_scale(stripped, scales)
    if missing:
        chosen = method or MeanSquaredError()
        with closing(
            observe_batches(stripped.model, missing, batches, open_runtime=open_runtime, method=method)
        ) as seen:
            collector = collect_ranges(missing, seen, method=chosen)
        scales = _backwards(stripped.model, {**scales, **{name: collector.range_of(name).scale for name in missing}})
    for node in stripped.model.graph.node:
        if node.op_type in _POOLS_BY_MEAN and node.input[0] in scales:
            scales[node.output[0]] = scales[node.input[0]]
    order = [info.name for info in stripped.model.graph.input]
    order.extend(name for node in stripped.model.graph.node for name in node.output)
    return {name: scales[name] for name in order if name in scales}


def _backwards(model: ModelProto, given: Mapping[str, float]) -> dict[str, float]:
    """Give the input of what keeps the order of values the scale of its output (rule 1)."""
    index = onnx_graph.index_graph(model.graph)
    scales = dict(given)
    for node in reversed(model.graph.node):
        for name in node.output:
            if name not in scales and (follows := _leader(name, index)) in scales and follows is not None:
                scales[name] = scales[follows]
    return scales


def _leader(tensor: str, index: onnx_graph.GraphIndex) -> str | None:
    """Return the tensor whose scale a tensor takes by rule 1, if any."""
    uses = index.uses.get(tensor, ())
    if len(uses) != 1 or uses[0].node.op_type not in _KEEPS_ORDER or tensor in index.outputs:
        return None
    return None if index.producer[tensor].op_type in _POOLS_BY_MEAN else uses[0].node.output[0]


def _without_scale(stripped: StrippedModel, scales: Mapping[str, float]) -> tuple[str, ...]:
    """Return the tensors to measure: of quantized layers and of what lies between them, less what rule 1 gives."""
    graph = stripped.model.graph
    index = onnx_graph.index_graph(graph)
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
    wanted = [
        name
        for node in graph.node
        for name in node.output
        if name not in scales
        and node.op_type not in _POOLS_BY_MEAN  # they take their input's
        and types.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
        and all(
            layer.op_type not in ALL_WEIGHTED_OPS or any(read in stripped.weights for read in layer.input)
            for layer in (node, *(use.node for use in index.uses.get(name, ())))  # none is left in float
        )
    ]
    return tuple(name for name in wanted if _leader(name, index) not in wanted)


def simulate_dla(stripped: StrippedModel, scales: Mapping[str, float], *, as_in_file: bool = False) -> ModelProto:
    """Return a Q/DQ model that computes what implicit quantization with these scales computes.

    Every tensor with a scale is rounded before anybody reads it, both operands of an Add to the larger of their scales,
    weights with TensorRT's scales. A DLA may fuse layers and round less often, so this is the careful reading.

    Args:
        stripped: What `strip_qdq` returned.
        scales: Its own, or those of `complete_scales`.
        as_in_file: Leave weights and outputs of the model alone; with the file's own scales it answers like the file.
    """
    result = onnx_graph.copy_model(stripped.model)
    graph = result.graph
    for name, weight in () if as_in_file else stripped.weights.items():
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        tensor.CopyFrom(
            onnx_graph.initializer_from_array(name, _rounded_weight(onnx_graph.array_from_initializer(tensor), weight))
        )
    zero = "dla.zero_point"
    graph.initializer.append(onnx_graph.initializer_from_array(zero, np.zeros((), np.int8)))
    made: dict[tuple[str, float], str] = {}
    nodes: list[NodeProto] = []

    def rounded(name: str, scale: float) -> str:
        if (name, scale) not in made:
            constant = f"{name}.dla.{len(made)}"
            graph.initializer.append(onnx_graph.initializer_from_array(constant, np.asarray(scale, np.float32)))
            for op_type, inputs, output in (
                ("QuantizeLinear", name, f"{constant}.quantized"),
                ("DequantizeLinear", f"{constant}.quantized", f"{constant}.dequantized"),
            ):
                nodes.append(onnx.helper.make_node(op_type, [inputs, constant, zero], [output], name=output))
            made[name, scale] = f"{constant}.dequantized"
        return made[name, scale]

    rounded_outputs = () if as_in_file else graph.output
    outputs = {info.name: f"{info.name}.exact" for info in rounded_outputs if info.name in scales}
    for node in list(graph.node):
        own = [scales.get(name) for name in node.input]
        known = [scale for scale in own if scale is not None]
        if node.op_type == "Add" and len(known) == 2:
            own = [max(known)] * 2
        for place, (name, scale) in enumerate(zip(list(node.input), own, strict=True)):
            if scale is not None:
                node.input[place] = rounded(outputs.get(name, name), scale)
        for place, name in enumerate(node.output):
            node.output[place] = outputs.get(name, name)
        nodes.append(node)
    for name, exact in outputs.items():
        nodes.append(onnx.helper.make_node("Identity", [rounded(exact, scales[name])], [name], name=f"{name}.rounded"))
    onnx_graph.replace_nodes(graph, nodes)
    return result


def _rounded_weight(values: NDArray[np.float32], scales: WeightScales) -> NDArray[np.float32]:
    shape = [-1 if place == scales.axis else 1 for place in range(values.ndim)]
    scale = np.where(scales.tensorrts > 0, scales.tensorrts, np.float32(1)).reshape(shape)
    rounded: NDArray[np.float32] = (np.clip(np.rint(values / scale), -128, 127) * scale).astype(np.float32)
    return rounded
