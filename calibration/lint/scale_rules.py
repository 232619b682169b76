"""Scales, zero points and integer types: what a target refuses, and what it reads as something else.

    TensorRT    signed, zero point 0, one scale > 0 per activation, float bias. UINT8 it takes with a warning and
                computes as INT8, so that values above 127 are cut off in silence
    TensorRT 8  also a zero point with every Q and DQ, and float32 scales

Source: the parsers of TensorRT 8.6 and 10.1 ("Scale coefficients must all be positive", "The zero point ... must be all
zeros", "Activations-quantization does not support per-axis quantization") and of TensorRT-RTX 1.7 ("input has type
Int32 but must have type FP8, FP4, Int4, Int8, or UInt8"); half precision: IEEE 754-2019, binary16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from calibration.lint.finding import Finding, Grouped, LintTarget, Place, Rule, Severity
from calibration.lint.quantized_graph import DEQUANTIZE, QUANTIZE, QuantizedGraph, Quantizer, Role
from calibration.lint.rule_registry import RuleFamily, rules_in
from exporter.passes.float16 import FLOAT16_MIN_NORMAL

SCALE_NOT_POSITIVE = Rule(
    "S001",
    "scale-not-positive",
    Severity.ERROR,
    "Every scale is above 0",
    "Calibrate with images that reach the tensor, or give dead channels a small positive scale",
)
SCALE_NOT_FINITE = Rule(
    "S002",
    "scale-not-finite",
    Severity.ERROR,
    "Every scale is a finite number",
    "Look for NaN or Inf in the weights and the calibration images, and calibrate again",
)
COMPUTED_SCALE = Rule(
    "S003",
    "computed-scale",
    Severity.ERROR,
    "Scales and zero points are constants",
    "Quantize statically, with calibration images",
)
INTEGER_BIAS = Rule(
    "S004",
    "int32-bias",
    Severity.ERROR,
    "Biases are float for TensorRT",
    "Quantize without biases (ONNX Runtime: extra_options QuantizeBias=False)",
)
UNSIGNED = Rule(
    "S005",
    "unsigned-integers",
    Severity.ERROR,
    "Integers are signed for TensorRT",
    "Quantize to INT8 (ONNX Runtime: QuantType.QInt8)",
)
ZERO_POINT = Rule(
    "S006",
    "nonzero-zero-point",
    Severity.ERROR,
    "Zero points are 0 for TensorRT",
    "Quantize symmetrically (ONNX Runtime: extra_options ActivationSymmetric=True)",
)
PER_AXIS_ACTIVATION = Rule(
    "S007", "per-axis-activation", Severity.ERROR, "An activation has one scale", "Quantize activations per tensor"
)
SCALES_DIFFER = Rule(
    "S008",
    "pair-scales-differ",
    Severity.ERROR,
    "Q and DQ of a pair have one scale and one zero point",
    "Give both the same constants; otherwise the pair multiplies its tensor by the quotient",
)
FLOAT16_SCALE = Rule(
    "S009",
    "float16-scale",
    Severity.WARNING,
    "Scales can be held in their type",
    "Store scales as float32, or clip them at 2**-14",
)
NO_ZERO_POINT = Rule(
    "S010",
    "missing-zero-point",
    Severity.ERROR,
    "TensorRT 8 gets a zero point with every Q and DQ",
    "Write an INT8 zero point of 0 as third input",
)
UNREADABLE_SCALE = Rule(
    "S011",
    "unreadable-scale",
    Severity.ERROR,
    "A scale's bytes are those of its type and shape",
    "Write the file again; it is damaged",
)
_UNSIGNED = frozenset(
    kind for name in ("UINT8", "UINT16", "UINT4") if (kind := getattr(TensorProto, name, None)) is not None
)
_ONE = {Role.ACTIVATION: "an activation", Role.WEIGHT: "a weight", Role.BIAS: "a bias"}


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield scales, zero points and types that no runtime, or not the target, computes as written."""
    grouped = Grouped()
    for quantizer in graph.quantizers:
        # An activation is told once, by its Q; constants, which may have no Q, by their DQ.
        place = quantizer.where
        if not _repeats_a_pair(quantizer, graph):
            _check_values(quantizer, graph, grouped, place)
        if quantizer.is_quantize != (quantizer.role is Role.ACTIVATION):
            continue
        if target.is_tensorrt:
            _check_tensorrt(quantizer, grouped, place)
        if target.is_tensorrt_8:
            _check_tensorrt_8(quantizer, grouped, place)
    for quantizer in graph.quantizers:
        if quantizer.is_quantize:
            _check_pair(quantizer, graph, grouped)
    yield from grouped.findings()


def _repeats_a_pair(quantizer: Quantizer, graph: QuantizedGraph) -> bool:
    """Tell whether this is a DQ behind a Q with the same scale."""
    maker = graph.index.producer.get(quantizer.node.input[0])
    return maker is not None and maker.op_type == QUANTIZE and maker.input[1] == quantizer.node.input[1]


def _check_values(quantizer: Quantizer, graph: QuantizedGraph, grouped: Grouped, place: Place) -> None:
    what = _ONE[quantizer.role]
    scale = quantizer.scale
    if scale is None:
        constant = graph.constants.tensors.get(quantizer.node.input[1])
        if constant is None:
            grouped.add(COMPUTED_SCALE, f"the scale of {what} is computed at run time", place)
        elif not constant.external_data:  # of a missing file rule I004 tells
            grouped.add(UNREADABLE_SCALE, f"the scale of {what} cannot be read", place)
        return
    values = np.asarray(scale, np.float64)
    if not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinite"
        grouped.add(SCALE_NOT_FINITE, f"a scale of {what} is {kind}", place)
    elif (values <= 0).any():
        grouped.add(SCALE_NOT_POSITIVE, f"a scale of {what} is {'negative' if (values < 0).any() else '0'}", place)
    elif scale.dtype == np.float16 and (values < FLOAT16_MIN_NORMAL).any():
        message = f"a scale of {what} is below {FLOAT16_MIN_NORMAL:.1e}, the least normal float16"
        grouped.add(FLOAT16_SCALE, message, place)


def _check_tensorrt(quantizer: Quantizer, grouped: Grouped, place: Place) -> None:
    what = _ONE[quantizer.role]
    if quantizer.data_type == TensorProto.INT32:
        grouped.add(INTEGER_BIAS, "an INT32 bias behind DequantizeLinear, which TensorRT refuses", place)
    elif quantizer.data_type in _UNSIGNED:
        message = f"{what} in {quantizer.type_name}, which TensorRT computes as INT8: the answers are others"
        grouped.add(UNSIGNED, message, place)
    if quantizer.zero_point is not None and np.any(np.asarray(quantizer.zero_point, np.float32)):
        grouped.add(ZERO_POINT, f"a zero point of {what} is not 0, which TensorRT refuses", place)
    if quantizer.role is Role.ACTIVATION and quantizer.scale is not None and quantizer.scale.size > 1:
        grouped.add(PER_AXIS_ACTIVATION, "an activation with a scale per channel, which TensorRT refuses", place)


def _check_tensorrt_8(quantizer: Quantizer, grouped: Grouped, place: Place) -> None:
    if quantizer.zero_point is not None and quantizer.zero_point.size == 0:
        grouped.add(NO_ZERO_POINT, "a pair without a zero point, which TensorRT 8 needs", place)
    if quantizer.scale is not None and quantizer.scale.dtype == np.float16:
        grouped.add(FLOAT16_SCALE, "a float16 scale, which TensorRT 8 reads as float32", place, severity=Severity.ERROR)


def _check_pair(quantizer: Quantizer, graph: QuantizedGraph, grouped: Grouped) -> None:
    for use in graph.index.uses.get(quantizer.node.output[0], ()):
        if use.node.op_type != DEQUANTIZE or use.place != 0:
            continue
        for place, values in ((1, quantizer.scale), (2, quantizer.zero_point)):
            other = graph.constants.array(use.node.input[place]) if len(use.node.input) > place else None
            if values is None or other is None or not values.size:
                continue
            if not np.array_equal(np.asarray(values, np.float64), np.asarray(other, np.float64), equal_nan=True):
                grouped.add(SCALES_DIFFER, "a pair with another scale or zero point in Q than in DQ", quantizer.where)
                break


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
