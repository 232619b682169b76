"""The files of a bundle: every name that one has, here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

MANIFEST_NAME = "manifest.json"
"""Origin, preprocessing, inputs and outputs, and the hash of every other file (`runtimes.bundle.manifest`)."""

LABELS_NAME = "labels.txt"
"""One name per class and line."""

GOLDEN_NAME = "golden.npz"
"""Prepared inputs with PyTorch's answers."""

CALIBRATION_NAME = "calibration.json"
"""Per tensor amax and scale (`calibration.ranges.calibration_table`)."""

REPORT_NAME = "report.json"
"""Everything that the run measured and printed."""

MODEL_FILES: Mapping[str, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-fp16": "model.int8.fp16.onnx",
}
"""Precision to the bundle's ONNX file. "int8-fp16" is INT8 whose scales, and all that is not quantized, are FP16."""

DLA_FILES: Mapping[str, str] = {"fp16": "model.dla.onnx", "int8": "model.int8.dla.onnx"}
"""Precision on a DLA to the bundle's ONNX file, float32 both: there the builder's flags decide, not the types."""

DLA_SCALES = "model.int8.dla.cache"
"""The scales of the INT8 file for the DLA, as TensorRT's calibration cache (`runtimes.trt.calibration_cache`)."""
