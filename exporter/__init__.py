"""PyTorch ResNets to ONNX files that answer the same, and on to TensorRT engines.

    export_resnet          name + weights -> folded float32 ONNX with its PyTorch reference
    float16_from_float32   float32 ONNX -> typed FP16 ONNX
    build_engine           ONNX file -> TensorRT or TensorRT-RTX plan
    ExportConfig           target and opset

Importing this package imports no framework; torch and onnx come with the first verb that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from exporter.version import __version__

if TYPE_CHECKING:
    from exporter.engines.build import build_engine
    from exporter.passes.float16 import float16_from_float32
    from exporter.tracing.export import ExportConfig, ExportedModel, export_resnet

__all__ = [
    "ExportConfig",
    "ExportedModel",
    "__version__",
    "build_engine",
    "export_resnet",
    "float16_from_float32",
]

_HOMES = {
    "ExportConfig": "exporter.tracing.export",
    "ExportedModel": "exporter.tracing.export",
    "build_engine": "exporter.engines.build",
    "export_resnet": "exporter.tracing.export",
    "float16_from_float32": "exporter.passes.float16",
}


def __getattr__(name: str) -> Any:
    """Import a verb's module when it is first named. No module is named like a verb: it would hide it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
