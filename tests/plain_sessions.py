"""Every file we write for a network, as a plain ONNX Runtime session runs it, beside the same file as it is written.

A plain session is what anybody opens: `onnxruntime.InferenceSession(file)`. As written is the same with the graph's
optimizations off, by ONNX Runtime's own switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.pipeline.quantize_model import quantize
from exporter.passes.float16 import float16_from_float32
from exporter.passes.float16_qdq import float16_qdq_from_float32
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates

ENOUGH_DB = 60.0
"""From here on two answers are the same for any purpose: noise of a thousandth of the signal."""

ALLOWED_DB = 1.0
"""What a plain session may lose on the file's own error; INT8's noise differs from session to session by less."""


@dataclass(frozen=True)
class Answered:
    """One file's signal to noise against the float reference: as it is written, and in a plain session."""

    file: str
    written_db: float
    plain_db: float

    @property
    def agrees(self) -> bool:
        """Whether the plain session answers as well as the file says."""
        return self.plain_db >= min(self.written_db - ALLOWED_DB, ENOUGH_DB)


def sqnr_db(reference: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    """Return the signal-to-noise ratio; -inf where an answer is no number."""
    if not np.isfinite(got).all():
        return -np.inf
    noise = np.square(got - reference).sum()
    return float(10 * np.log10(np.square(reference).sum() / max(noise, 1e-300)))


def session_answers(model: ModelProto, images: NDArray[np.float32], *, plain: bool) -> NDArray[np.float64]:
    """Return the first output of a session that is opened as anybody opens it, or with the optimizations off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif why_int8_saturates():  # saturation is a matter of the CPU; tests/runtimes/ort has it
        options.add_session_config_entry(*PRECISE_OPTION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0], np.float64)


def files_of(
    model: ModelProto, calibration: NDArray[np.float32], *, effort: int = 1
) -> Iterator[tuple[str, Callable[[], ModelProto]]]:
    """Yield name and maker of every file of a float model: FP32, FP16, INT8 in both dialects, INT8 with FP16."""
    exact = partial(OrtRuntime, exact_qdq=True)
    quantized: dict[Dialect, ModelProto] = {}

    def in_dialect(dialect: Dialect) -> ModelProto:
        if dialect not in quantized:
            result = quantize(
                model,
                [calibration],
                open_runtime=OrtRuntime,
                open_exact=exact,
                dialect=dialect,
                effort=EFFORTS[effort],
            )
            quantized[dialect] = result.quantized.model
        return quantized[dialect]

    yield "fp32", lambda: model
    yield "fp16", lambda: float16_from_float32(model).model
    for dialect in Dialect:
        yield f"int8 {dialect.value}", partial(in_dialect, dialect)
    yield "int8 fp16", lambda: float16_qdq_from_float32(in_dialect(Dialect.TENSORRT)).model


def answered(
    files: Mapping[str, ModelProto], reference: NDArray[np.float64], images: NDArray[np.float32]
) -> list[Answered]:
    """Return how every file answers, as it is written and in a plain session."""
    return [
        Answered(
            name,
            sqnr_db(reference, session_answers(model, images, plain=False)),
            sqnr_db(reference, session_answers(model, images, plain=True)),
        )
        for name, model in files.items()
    ]
