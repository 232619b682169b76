"""The precisions of a bundle's files: their names, their files and how a command asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MODEL_FILES: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "model.onnx",
        "fp16": "model.fp16.onnx",
        "int8": "model.int8.onnx",
        "int8-fp16": "model.int8.fp16.onnx",
    }
)
"""Precision to the bundle's ONNX file. "int8-fp16" is INT8 whose scales, and all that is not quantized, are FP16."""

DLA_FILES: Mapping[str, str] = MappingProxyType({"fp16": "model.dla.onnx", "int8": "model.int8.dla.onnx"})
"""Precision on a DLA to the bundle's ONNX file, float32 both: there the builder's flags decide, not the types."""

DLA_SCALES = "model.int8.dla.cache"
"""The scales of the INT8 file for the DLA, as TensorRT's calibration cache (`runtimes.trt.calibration_cache`)."""

LOWEST_FIRST = ("int8-fp16", "int8", "fp16", "fp32")


def is_int8(precision: str | None) -> bool:
    """Tell whether a file of this precision holds Q/DQ nodes."""
    return precision is not None and precision.startswith("int8")


def option_words(precision: str) -> str:
    """Return the options that ask for a precision, such as "--int8 --fp16"."""
    return " ".join(f"--{word}" for word in precision.split("-"))
