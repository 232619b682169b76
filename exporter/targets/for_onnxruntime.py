"""ONNX Runtime's CPU kernels, which read a Q/DQ dialect of their own."""

from __future__ import annotations

from exporter.target import Target

ONNXRUNTIME = Target(
    "onnxruntime",
    20,
    20,
    "ONNX Runtime 1.17 or newer",
    dialect="onnxruntime",
    exact_int8_simulation=False,
    has_dla=False,
    newest_read=26,  # loaded and run, 2026-11-29
    newest_reader="ONNX Runtime 1.31",
)
