"""PyTorch ResNets to ONNX files that answer the same, and on to TensorRT engines.

    export_resnet          name + weights -> folded float32 ONNX with its PyTorch reference
    float16_from_float32   float32 ONNX -> typed FP16 ONNX
    build_engine           ONNX file -> TensorRT or TensorRT-RTX plan
    ExportConfig           target and opset

Importing this package imports no framework; torch and onnx come with the first verb that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.version import __version__
from runtimes.lazy_names import lazy_names

if TYPE_CHECKING:
    from exporter.engines.build import build_engine
    from exporter.passes.float16 import float16_from_float32
    from exporter.tracing.export import ExportConfig, ExportedModel, export_resnet

__all__ = ["ExportConfig", "ExportedModel", "__version__", "build_engine", "export_resnet", "float16_from_float32"]

__getattr__ = lazy_names(
    __name__,
    {
        "exporter.engines.build": ("build_engine",),
        "exporter.passes.float16": ("float16_from_float32",),
        "exporter.tracing.export": ("ExportConfig", "ExportedModel", "export_resnet"),
    },
)
