"""Layers, weights and pairs of a quantized file that are not as INT8 kernels need them.

A layer is one INT8 kernel when its data and its weight both come out of a DequantizeLinear; the weight with one scale
per output channel, along the output channels.

Source: NVIDIA TensorRT documentation, "Explicit quantization", recommendations 1, 2 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from calibration.lint.finding import Finding, Grouped, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import (
    DEQUANTIZE,
    INTEGER_LAYERS,
    QUANTIZE,
    QuantizedGraph,
    Quantizer,
    Role,
    constant_behind,
    is_integer,
)
from calibration.lint.rule_registry import RuleFamily, rules_in
from calibration.placement.channel_gates import find_gates
from calibration.placement.for_tensorrt import ATTENTION, GATE, output_channel_axis, why_not_quantized
from exporter.graph.onnx_graph import attribute, index_graph, maker_behind
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS, MOVING_OPS

FLOAT_LAYER = Rule(
    "L001",
    "layer-not-quantized",
    Severity.WARNING,
    "Every convolution and linear layer of a quantized file is quantized",
    "Quantize it too, or name it as left in float on purpose",
)
FLOAT_WEIGHT = Rule(
    "L002",
    "weight-not-quantized",
    Severity.WARNING,
    "A layer with quantized data has a quantized weight",
    "Put Q/DQ on the weight, or store it as INT8 behind a DequantizeLinear",
)
FLOAT_DATA = Rule(
    "L003",
    "data-not-quantized",
    Severity.WARNING,
    "A layer with a quantized weight reads quantized data",
    "Put a pair on the layer's input; a quantized weight alone saves memory, not time",
)
PER_TENSOR_WEIGHT = Rule(
    "L004",
    "per-tensor-weight",
    Severity.WARNING,
    "A weight has one scale per output channel",
    "Quantize weights per channel (per_channel=True)",
)
WEIGHT_AXIS = Rule(
    "L005",
    "weight-axis",
    Severity.ERROR,
    "A weight's scales run along its output channels",
    "Quantize along axis 0 of Conv and of Gemm with transB = 1, along axis 1 of ConvTranspose, MatMul and other Gemm",
)
LONE_QUANTIZE = Rule(
    "L006",
    "quantize-without-dequantize",
    Severity.WARNING,
    "Every QuantizeLinear is followed by a DequantizeLinear",
    "Complete the pair, or remove the node",
)
LONE_DEQUANTIZE = Rule(
    "L007",
    "dequantize-without-quantize",
    Severity.WARNING,
    "Every DequantizeLinear stands behind a QuantizeLinear or on a constant",
    "Complete the pair",
)
PAIR_BEFORE_RELU = Rule(
    "L008",
    "pair-before-activation",
    Severity.WARNING,
    "Nothing stands between a layer and its ReLU, so that both are one kernel",
    "Move the pair behind the ReLU",
)


def layer_counts(graph: QuantizedGraph) -> tuple[int, int]:
    """Return how many layers have a constant weight, and how many of them compute in INT8."""
    layers = [node for node in graph.weighted() if constant_behind(node.input[1], graph.index, graph.constants)]
    quantized = sum(all(graph.dequantizer(name) is not None for name in node.input[:2]) for node in layers)
    integer = sum(node.op_type in INTEGER_LAYERS for node in graph.model.graph.node)
    return len(layers) + integer, quantized + integer


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield what is not quantized and could be, and pairs that are none; of a float file nothing."""
    if not graph.is_quantized:
        return
    grouped = Grouped()
    _check_layers(graph, grouped)
    for quantizer in graph.quantizers:
        if quantizer.role is Role.WEIGHT and not quantizer.is_quantize:
            _check_weight(quantizer, graph, grouped)
        _check_pair(quantizer, graph, grouped)
        if target.is_tensorrt:
            _check_relu(quantizer, graph, grouped)
    yield from grouped.findings()


def _check_layers(graph: QuantizedGraph, grouped: Grouped) -> None:
    float_index = index_graph(graph.float_model.graph)
    gates = find_gates(graph.float_model)
    inputs = {info.name for info in graph.model.graph.input}
    numbers = {node.output[0]: node for node in graph.float_model.graph.node}
    for node in graph.weighted():
        data, weight = (graph.dequantizer(name) is not None for name in node.input[:2])
        place = graph.where(node)
        if data and weight:
            continue
        if data != weight and constant_behind(node.input[1], graph.index, graph.constants):
            rule, what = (FLOAT_WEIGHT, "weight") if data else (FLOAT_DATA, "data")
            grouped.add(rule, f"the {what} of a layer is not quantized: it computes in float", place)
            continue
        twin = numbers[node.output[0]]
        reason = why_not_quantized(twin, float_index, inputs) or (GATE if twin.name in gates.layers else "")
        if reason == ATTENTION:
            continue
        severity = Severity.NOTE if reason else None
        grouped.add(FLOAT_LAYER, f"a layer in float{f': {reason}' if reason else ''}", place, severity=severity)


def _check_weight(quantizer: Quantizer, graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look at granularity and axis of a layer's weight."""
    layer = quantizer.layer
    constant = constant_behind(quantizer.node.input[0], graph.index, graph.constants)
    if layer is None or quantizer.scale is None:
        return
    dims = graph.constants.dims(constant)
    direct = layer.input[1] == quantizer.node.output[0]
    axis = 1 if layer.op_type == "ConvTranspose" else output_channel_axis(layer)
    place = quantizer.where
    if quantizer.scale.size == 1 and direct and len(dims) > axis and dims[axis] > 1:
        grouped.add(PER_TENSOR_WEIGHT, "a weight with one scale for all output channels", place)
    elif quantizer.scale.ndim == 1 and quantizer.scale.size > 1 and direct and len(dims) > 1:
        got = int(attribute(quantizer.node, "axis", 1)) % len(dims)
        if got != axis:
            message = f"a weight of {layer.op_type} with scales along axis {got}, expected axis {axis}"
            grouped.add(WEIGHT_AXIS, message, place)


def _check_pair(quantizer: Quantizer, graph: QuantizedGraph, grouped: Grouped) -> None:
    node, index = quantizer.node, graph.index
    place = quantizer.where
    if quantizer.is_quantize:
        readers = [use.node for use in index.uses.get(node.output[0], ())]
        if not any(reader.op_type in (DEQUANTIZE, *MOVING_OPS) or is_integer(reader) for reader in readers):
            grouped.add(LONE_QUANTIZE, "a QuantizeLinear without a DequantizeLinear behind it", place)
    elif quantizer.role is Role.ACTIVATION:
        maker = maker_behind(node.input[0], index.producer, MOVING_OPS)
        if maker is None or (maker.op_type != QUANTIZE and not is_integer(maker)):
            grouped.add(LONE_DEQUANTIZE, "a DequantizeLinear on integers that no QuantizeLinear made", place)


def _check_relu(quantizer: Quantizer, graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for Conv -> Q -> DQ -> Relu."""
    if not quantizer.is_quantize or quantizer.role is not Role.ACTIVATION:
        return
    maker = graph.index.producer.get(quantizer.node.input[0])
    if maker is None or maker.op_type not in ALL_WEIGHTED_OPS | {"Add"}:
        return
    for pair in graph.index.uses.get(quantizer.node.output[0], ()):
        for use in graph.index.uses.get(pair.node.output[0], ()) if pair.node.op_type == DEQUANTIZE else ():
            if use.node.op_type in ("Relu", "Clip", "LeakyRelu"):
                grouped.add(PAIR_BEFORE_RELU, f"a pair between a layer and its {use.node.op_type}", quantizer.where)


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
