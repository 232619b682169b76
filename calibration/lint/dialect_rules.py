"""Whose Q/DQ it is: TensorRT's, ONNX Runtime's, or some of both.

TensorRT's explicit quantization takes signed integers around zero, one scale per activation, float bias, and no
operator that computes on integers itself. ONNX Runtime's CPU provider has its fast kernels for unsigned activations
with a zero point, INT32 bias, and Q/DQ on every tensor between; it also knows QLinear operators.

Source: the parsers of TensorRT 10.1 and TensorRT-RTX 1.7; onnxruntime.ai, "Quantize ONNX models".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from calibration.lint.finding import Finding, Grouped, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph, Quantizer, Role, is_integer
from calibration.lint.rule_registry import RuleFamily, rules_in
from exporter.graph.onnx_graph import STANDARD_DOMAINS

TENSORRT, ONNXRUNTIME, MIXED, NONE = "TensorRT", "ONNX Runtime", "mixed", "none"

SIGNED = frozenset(
    kind
    for name in ("INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1")
    if (kind := getattr(TensorProto, name, None)) is not None
)
"""Types that TensorRT accepts between Q and DQ. Source: its parser's message, "FP8, FP4, Int4, Int8, or UInt8"."""

DIALECT = Rule(
    "D001",
    "quantization-dialect",
    Severity.WARNING,
    "The file's Q/DQ is written for its target",
    "Quantize the float file again for this target",
)
INTEGER_OPERATOR = Rule(
    "D002",
    "integer-operator",
    Severity.ERROR,
    "No operator computes on integers itself",
    "Quantize with QuantFormat.QDQ instead of QOperator, and statically instead of dynamically",
)
FOREIGN_OPERATOR = Rule(
    "D003",
    "foreign-operator",
    Severity.ERROR,
    "Every operator is one of ONNX's own",
    "Export without optimizations for one runtime, before ONNX Runtime has rewritten the graph",
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Dialect of a file, and how many pairs on activations TensorRT reads as they stand, and how many not."""

    name: str
    num_signed: int
    num_other: int


def dialect_of(graph: QuantizedGraph) -> Dialect:
    """Tell whose Q/DQ a file holds."""
    pairs = [quantizer for quantizer in graph.quantizers if quantizer.role is Role.ACTIVATION and quantizer.is_quantize]
    signed = sum(is_signed_symmetric(quantizer) for quantizer in pairs)
    integer_bias = any(each.role is Role.BIAS and each.data_type == TensorProto.INT32 for each in graph.quantizers)
    counts = (signed, len(pairs) - signed)
    if integer_bias or any(is_integer(node) for node in graph.model.graph.node):
        return Dialect(ONNXRUNTIME, *counts)
    if not graph.quantizers:
        return Dialect(NONE, *counts)
    if len(pairs) == signed:
        return Dialect(TENSORRT, *counts)
    return Dialect(MIXED if signed else ONNXRUNTIME, *counts)


def is_signed_symmetric(quantizer: Quantizer) -> bool:
    """Tell whether TensorRT reads a pair on an activation as it stands."""
    zero = quantizer.zero_point
    return (
        quantizer.data_type in SIGNED
        and zero is not None
        and not np.any(np.asarray(zero, np.float32))
        and quantizer.scale is not None
        and quantizer.scale.size == 1
    )


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield what is written in another dialect than the target's."""
    dialect = dialect_of(graph)
    wanted = TENSORRT if target.is_tensorrt else ONNXRUNTIME
    if dialect.name == MIXED:
        yield Finding(
            DIALECT,
            Severity.WARNING,
            f"mixed dialects: {dialect.num_signed} activations are INT8 around zero, {dialect.num_other} UINT8 or with "
            "a zero point",
        )
    elif dialect.name not in (wanted, NONE):
        yield Finding(DIALECT, Severity.WARNING, f"the quantization is in {dialect.name}'s dialect, not in {wanted}'s")
    grouped = Grouped()
    for node in graph.model.graph.node:
        place = graph.where(node)
        if is_integer(node) and target.is_tensorrt:
            grouped.add(INTEGER_OPERATOR, f"{node.op_type}, which TensorRT's parser does not know", place)
        elif node.domain == "com.microsoft.nchwc" and not target.is_tensorrt:
            continue  # ONNX Runtime knows it, on CPUs of one kind: rule D004
        elif node.domain not in STANDARD_DOMAINS:
            known = node.domain == "com.microsoft" and not target.is_tensorrt
            message = f"{node.domain}::{node.op_type}, " + (
                "which only ONNX Runtime knows" if known else f"which {target.reads} does not know without a plugin"
            )
            grouped.add(FOREIGN_OPERATOR, message, place, severity=Severity.NOTE if known else None)
    yield from grouped.findings()


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
