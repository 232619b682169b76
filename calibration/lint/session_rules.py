"""Check how a plain ONNX Runtime session runs a Q/DQ file, and whether the answers are still the file's.

Opening a file, ONNX Runtime turns layers between pairs into integer kernels. Their bias is INT32 with the scale of the
sums, input scale times weight scale:

    bias INT32 behind DQ    its own scale is not looked at by a Gemm; a Conv with another one stays in float
    bias float              is made INT32: round(bias / (input scale * weight scale)), which ends at 2^31, and in a file
                            with FP16 scales at 65504, the largest FP16 number

A MatMul of INT8 weights whose input is float becomes MatMulNBits, which rounds that input to INT8 in blocks. Weights
with a scale for each block get an integer kernel that knows one scale or one for each output channel, and refuses.

Source: ONNX Runtime 1.31, core/optimizer/qdq_transformer/weight_bias_quantization.cc and qdq_actions.cc; which graphs
it takes was tried with 1.30 to 1.32 (tests/exporter/passes/test_float32_layers.py). Float inputs:
findings/onnxruntime_weight_only_quantizes_inputs.sh; blocks: findings/onnxruntime_blocked_weights_of_conv.sh.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from calibration.lint.finding import Finding, Grouped, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import (
    DEQUANTIZE,
    QUANTIZE,
    QuantizedGraph,
    Quantizer,
    Role,
    constant_behind,
    is_integer,
)
from calibration.lint.rule_registry import RuleFamily, rules_in
from exporter.graph.onnx_graph import attribute
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS
from exporter.passes.float16 import FLOAT16_MAX
from exporter.passes.float32_layers import chain_to_quantize

MAX_RELATIVE = 1e-3
"""How far a bias's scale may be from input scale times weight scale: float32 rounds by 1e-7, a wrong one is far off."""

INT32_MAX = 2.0**31 - 1
_BYTES = frozenset({TensorProto.INT8, TensorProto.UINT8})
_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})

BIAS_SCALE = Rule(
    "S012",
    "bias-scale",
    Severity.ERROR,
    "An INT32 bias has the scale of its layer's sums: input scale times weight scale",
    "Quantize the bias with input scale times weight scale, or leave it in float",
)
BIAS_OVERFLOW = Rule(
    "S013",
    "bias-overflow",
    Severity.ERROR,
    "A float bias fits into INT32, in steps of input scale times weight scale",
    "Raise the weight scale of the channels named, or export the file again; else open it with the optimizer "
    "WeightBiasQuantization disabled",
)
FLOAT_INPUT = Rule(
    "S014",
    "float-input-rounded",
    Severity.WARNING,
    "A MatMul of INT8 weights reads INT8 as well",
    "Quantize its input too, or store its weights in float, or as a Gemm's with transB = 1; else open it with "
    'session.qdq_matmulnbits_accuracy_level "1"',
)
BLOCKED_WEIGHTS = Rule(
    "S015",
    "blocked-weights",
    Severity.ERROR,
    "No layer that a session computes in integers has weights quantized in blocks",
    "Quantize the weights per channel, or leave the layer's input in float; else open it with "
    'session.disable_quant_qdq "1", which computes the layers as written',
)
FOLDED_WEIGHT = Rule(
    "L009",
    "int8-folded-away",
    Severity.WARNING,
    "Weights that were INT8 are stored as INT8",
    "Start from the INT8 file again; the tool that wrote this one computed its Q/DQ and kept floats",
)
CPU_BOUND = Rule(
    "D004",
    "bound-to-a-cpu",
    Severity.WARNING,
    "The file runs alike on every CPU",
    "Ship the file that it was made from; ONNX Runtime optimizes it again on each machine when it is opened",
)


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield what a session without options would compute otherwise, or not in INT8 any more."""
    grouped = Grouped()
    scales = {quantizer.node.output[0]: quantizer for quantizer in graph.quantizers if not quantizer.is_quantize}
    for node in graph.model.graph.node:
        _check_bias(node, graph, scales, grouped, target)
        if not target.is_tensorrt:
            _check_input(node, graph, grouped)
            _check_blocks(node, graph, grouped)
        if node.op_type in ALL_WEIGHTED_OPS and len(node.input) > 1 and not graph.is_quantized:
            _check_weight(node, graph, grouped)
        _check_cpu(node, graph, grouped, target)
    yield from grouped.findings()


def _check_bias(
    node: NodeProto, graph: QuantizedGraph, scales: dict[str, Quantizer], grouped: Grouped, target: LintTarget
) -> None:
    """Compare a layer's bias with the scale of its sums."""
    name, last = _bias_of(node, graph)
    steps = _scale_of_sums(node, graph, scales) if name else None
    if steps is None:
        return
    bias = scales.get(name)
    if bias is not None and bias.role is Role.BIAS:
        if not target.is_tensorrt and bias.data_type == TensorProto.INT32 and bias.scale is not None:
            _check_bias_scale(node, graph, np.asarray(bias.scale, np.float64).reshape(-1), steps, grouped)
            if "Conv" not in node.op_type and bias.zero_point is not None and bias.zero_point.any():
                told = (
                    "a bias has a zero point, which the integer kernel of a Gemm does not look at: it answers wrongly"
                )
                grouped.add(BIAS_SCALE, told, graph.where(node))
        return
    values = graph.constants.array(name)
    if values is None or not chain_to_quantize(last, graph.index):
        return
    counted = np.asarray(values, np.float64).reshape(-1)
    if not _broadcasts(counted, steps):
        return
    half = graph.constants.data_type(name) == TensorProto.FLOAT16
    limit = FLOAT16_MAX if half else INT32_MAX
    with np.errstate(divide="ignore", invalid="ignore"):
        counted = np.abs(counted) / steps
    if not (counted > limit).any():
        return
    kind = "FP16 counts to 65504" if half else "INT32 ends at 2^31"
    message = (
        f"a bias is more input steps times weight steps than its type holds ({kind}): a plain ONNX Runtime session "
        "makes it an integer and answers wrongly"
    )
    grouped.add(BIAS_OVERFLOW, message, graph.where(node), severity=Severity.WARNING if target.is_tensorrt else None)


def _bias_of(node: NodeProto, graph: QuantizedGraph) -> tuple[str, NodeProto]:
    """Return a layer's bias, "" for none, and the node that adds it; a session makes a MatMul and an Add one Gemm."""
    if node.op_type in _BIASED:
        return node.input[2] if len(node.input) > 2 else "", node
    uses = graph.index.uses.get(node.output[0], ()) if node.op_type == "MatMul" else ()
    if len(uses) != 1 or uses[0].node.op_type != "Add" or node.output[0] in graph.index.outputs:
        return "", node
    return uses[0].node.input[1 - uses[0].place], uses[0].node


def _check_bias_scale(
    node: NodeProto, graph: QuantizedGraph, scale: NDArray[np.float64], steps: NDArray[np.float64], grouped: Grouped
) -> None:
    if not _broadcasts(scale, steps):
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.atleast_1d(scale / steps)
    wrong = ~(np.abs(quotient - 1.0) <= MAX_RELATIVE)
    if not wrong.any():
        return
    found = (
        f"the bias of a {node.op_type} has {quotient[wrong][0]:.3g} times input scale times weight scale as its scale"
    )
    if "Conv" not in node.op_type:
        grouped.add(
            BIAS_SCALE, f"{found}: the integer kernel does not look at it and answers wrongly", graph.where(node)
        )
    else:
        message = f"{found}: the layer stays in float, which is slow, and other versions may answer wrongly"
        grouped.add(BIAS_SCALE, message, graph.where(node), severity=Severity.WARNING)


def _broadcasts(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return first.size == second.size or 1 in (first.size, second.size)


def _scale_of_sums(node: NodeProto, graph: QuantizedGraph, scales: dict[str, Quantizer]) -> NDArray[np.float64] | None:
    """Return input scale times weight scale, float64 [C] or [1]; None where the layer is not quantized."""
    found = []
    for name in node.input[:2]:
        dequantize = graph.dequantizer(name)
        quantizer = None if dequantize is None else scales.get(dequantize.output[0])
        if quantizer is None or quantizer.scale is None or quantizer.scale.ndim > 1:
            return None
        found.append(np.asarray(quantizer.scale, np.float64).reshape(-1))
    data, weight = found
    return data * weight if data.size == 1 else None


def _check_input(node: NodeProto, graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for a float input beside integer weights, where a session makes it integer, too."""
    if node.op_type != "MatMul" and not (node.op_type == "Gemm" and attribute(node, "transB", 0) == 0):
        return
    dequantize = graph.index.producer.get(node.input[1])
    is_stored = dequantize is not None and dequantize.op_type == DEQUANTIZE and dequantize.input[0] in graph.constants
    if is_stored and graph.dequantizer(node.input[0]) is None:
        message = (
            "a plain ONNX Runtime session rounds the float input of a layer with integer weights to INT8 in blocks"
        )
        grouped.add(FLOAT_INPUT, message, graph.where(node))


def _check_blocks(node: NodeProto, graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for weights with a scale for each block, which a session gives to a kernel that knows none."""
    if node.op_type not in ("Conv", "MatMul") or len([name for name in node.input if name]) != 2:
        return  # a Gemm stays in float, and so does a Conv with a bias
    data, weight = graph.dequantizer(node.input[0]), graph.dequantizer(node.input[1])
    if data is None or weight is None or not attribute(weight, "block_size", 0):
        return
    kinds = {entry.node.output[0]: entry.data_type for entry in graph.quantizers if not entry.is_quantize}
    if {kinds.get(data.output[0]), kinds.get(weight.output[0])} <= _BYTES and _is_made_integer(node, graph):
        message = (
            f"{node.op_type} with weights quantized in blocks: a plain ONNX Runtime session opens and cannot run it"
        )
        grouped.add(BLOCKED_WEIGHTS, message, graph.where(node))


def _is_made_integer(node: NodeProto, graph: QuantizedGraph) -> bool:
    """Tell whether a session makes an integer kernel of a layer of two quantized operands.

    A Conv's answer must be quantized, at once or behind a Relu that this does, too. A MatMul's need not, but for what
    is rounded behind an activation.
    """
    is_product = bool(node.op_type == "MatMul")
    uses = graph.index.uses.get(node.output[0], ())
    if node.output[0] in graph.index.outputs or not uses:
        return is_product
    if all(use.node.op_type == QUANTIZE for use in uses):
        return True
    (reader,) = uses[:1]
    behind = graph.index.uses.get(reader.node.output[0], ()) if len(uses) == 1 else ()
    is_activation = reader.node.op_type in ("Relu", "Clip") and bool(behind)
    if not is_activation or any(use.node.op_type != QUANTIZE for use in behind):
        return is_product
    ends = {use.node.output[0] for use in behind}
    return str(reader.node.op_type) == "Relu" and all(
        _ends_at_zero(entry) for entry in graph.quantizers if entry.node.output[0] in ends
    )


def _ends_at_zero(quantizer: Quantizer) -> bool:
    """Tell whether the lowest level stands for 0, so that rounding does what a Relu does."""
    lowest = {TensorProto.INT8: -128, TensorProto.UINT8: 0}.get(quantizer.data_type)
    zeros = quantizer.zero_point
    return zeros is not None and lowest is not None and bool((zeros == lowest).all() if zeros.size else lowest == 0)


def _check_weight(node: NodeProto, graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for float weights that lie on an INT8 grid, channel by channel."""
    name = constant_behind(node.input[1], graph.index, graph.constants)
    values = graph.constants.array(name) if name else None
    if values is None or values.dtype not in (np.float32, np.float16) or values.ndim < 2 or values.size < _LEAST_SIZE:
        return
    by_rows = np.asarray(values, np.float64).reshape(len(values), -1)
    by_columns = np.asarray(values, np.float64).reshape(len(values), -1).T if values.ndim == 2 else by_rows
    if _lies_on_grid(by_rows) or _lies_on_grid(by_columns):
        grouped.add(
            FOLDED_WEIGHT, "a float weight takes INT8's levels only: INT8 is gone from this file", graph.where(node)
        )


_LEAST_SIZE, _LEAST_ROW = 64, 9
"""Fewer values, of a weight and of a channel, may lie on a grid by chance."""

_CHANNELS = 4


def _lies_on_grid(channels: NDArray[np.float64]) -> bool:
    """Tell whether the first channels [C, n] are whole multiples, up to 127, of one step each.

    A float channel of n values has n distances to its grid's points; float32 rounds these to 1e-5 of a step.
    """
    alive = [row for row in channels if np.abs(row).max() > 0][:_CHANNELS]
    return bool(alive) and alive[0].size >= _LEAST_ROW and all(_is_multiple(row) for row in alive)


def _is_multiple(row: NDArray[np.float64]) -> bool:
    levels = np.arange(127, 63, -1)[:, np.newaxis]
    steps = row[np.newaxis] / np.abs(row).max() * levels  # [64, n]
    return bool((np.abs(steps - np.rint(steps)).max(axis=1) < 2e-2).any())


def _check_cpu(node: NodeProto, graph: QuantizedGraph, grouped: Grouped, target: LintTarget) -> None:
    """Look for what ONNX Runtime writes when it saves a graph that it has optimized for its own machine."""
    if target.is_tensorrt:
        return  # D003 refuses these nodes
    if str(node.domain) == "com.microsoft.nchwc":
        message = f"operators of {node.domain}: laid out for the kind of CPU on which ONNX Runtime saved the file"
        grouped.add(CPU_BOUND, message, graph.where(node))
    elif node.domain == "com.microsoft" and node.op_type == "FusedConv" and not is_integer(node):
        maker = graph.index.producer.get(node.input[1]) if len(node.input) > 1 else None
        if maker is not None and maker.op_type == DEQUANTIZE:
            message = (
                "FusedConv that makes its INT8 weights float again at every run: saved by a session that fuses no more"
            )
            grouped.add(CPU_BOUND, message, graph.where(node))


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
