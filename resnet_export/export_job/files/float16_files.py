"""FP16, and INT8 with FP16 around it: typed, then run on real inputs, because FP16 ends at 65504."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.errors import NonFiniteTensorError
from resnet_export.console.reporter import Reporter
from runtimes.bundle.file_names import MODEL_FILES

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.tracing.check_export import OpenRuntime
    from exporter.tracing.export import ExportedModel

ARM_ADDS_IN_FLOAT16 = (
    "FP16: on ARM processors with FP16 arithmetic ONNX Runtime's CPU provider also adds in FP16, so that answers there "
    "are less exact than here (46 instead of 62 dB on a ResNet-18, docs/sessions.md); verify measures it on the device"
)
"""Said where FP16 is for ONNX Runtime."""


def float16_file(exported: ExportedModel, golden: NDArray[np.float32], reporter: Reporter) -> ModelProto:
    """Return the network in FP16.

    Raises:
        NonFiniteTensorError: If a real input overflows.
    """
    from exporter.passes.float16 import float16_from_float32
    from runtimes.ort.adapter import OrtRuntime

    with reporter.working("typing FP16"):
        result = float16_from_float32(exported.onnx)
        _refuse_overflow(result.model, exported.onnx, golden[:2], OrtRuntime)
    reporter.done(f"FP16: {result.num_changes} constants converted, every activation finite")
    for note in result.skipped:
        reporter.done(f"FP16: {note}")
    return result.model


def int8_float16_file(
    quantized: ModelProto, reference: ModelProto, golden: NDArray[np.float32], reporter: Reporter
) -> ModelProto:
    """Return the quantized network with its scales, and what is not quantized, in FP16.

    Biases take zero points of the rounded scales.

    Raises:
        NonFiniteTensorError: If a real input overflows.
    """
    from calibration.qdq.offsets import give_offsets_back, num_zero_points, take_offsets
    from exporter.passes.float16_qdq import SMALLEST_SCALE, float16_qdq_from_float32
    from runtimes.ort.exact_sessions import open_exact

    with reporter.working("typing INT8 + FP16"):
        typed = float16_qdq_from_float32(give_offsets_back(quantized, reference))
        result = replace(typed, model=take_offsets(typed.model, reference))
        _refuse_overflow(result.model, quantized, golden[:2], open_exact)
    reporter.done("INT8 + FP16: scales and all that is not quantized in FP16, every activation finite")
    if symmetric := num_zero_points(quantized) - num_zero_points(result.model):
        reporter.done(
            f"INT8 + FP16: {symmetric} tensors without their zero point: FP16 ends before a bias that takes it"
        )
    for note in result.notes:
        reporter.done(f"INT8 + FP16: {note}")
    if result.num_raised:
        reporter.done(f"{result.num_raised} scales raised to {SMALLEST_SCALE:.2g}: FP16 loses precision below it")
    if result.coarse:
        named = ", ".join(f"{name} {level}" for name, level in result.coarse.items())
        reporter.warn(
            f"INT8 + FP16: FP16's smallest scale, {SMALLEST_SCALE:.2g}, leaves too few of 127 levels: {named}; deploy "
            "INT8 without --fp16, or scale these tensors up in the network",
            doubted=[MODEL_FILES["int8-fp16"]],
        )
    return result.model


def _refuse_overflow(
    model: ModelProto, wide: ModelProto, images: NDArray[np.float32], open_runtime: OpenRuntime
) -> None:
    """Refuse a model with NaN or Inf where the one that it was typed from has none."""
    from exporter.tracing.check_export import first_nonfinite_tensor

    if (tensor := first_nonfinite_tensor(model, images, open_runtime=open_runtime, reference=wide)) is not None:
        raise NonFiniteTensorError(
            f"FP16 overflows: tensor {tensor!r} holds NaN or Inf on real images (FP16 ends at 65504); export without "
            "--fp16, or scale the input as in training"
        )
