"""ResNets from PyTorch to INT8/FP16 on an edge device, with proof that they still answer the same.

    export          a model (module, name, or .onnx file) -> bundle of ONNX files, compared with PyTorch
    verify          a bundle, file or engine against its reference, with gates
    load            a bundle, file or engine, opened for an application: run, classify
    quantize        float ONNX model + images -> INT8 model
    Preprocessing   how a model's images are prepared, where its weights do not say

Each verb of the command is a function here, with the same options and defaults. Importing this package imports no
framework; torch, onnx and ONNX Runtime come with the first verb that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from exporter.version import __version__

if TYPE_CHECKING:
    from resnet_export.api.checks import BenchReport, SensitivityReport, bench, doctor, models, sensitivity
    from resnet_export.api.deploy import build, classify, deepstream, triton
    from resnet_export.api.export import export
    from resnet_export.api.preprocessing import Preprocessing
    from resnet_export.api.quantize import quantize
    from resnet_export.api.verify import GateOutcome, Verification, verify
    from resnet_export.commands.lint import lint
    from resnet_export.console.reporter import Event
    from resnet_export.export_job.report import ExportReport, FileResult
    from runtimes.inference.load import load
    from runtimes.inference.model import Model

_HOMES = {
    "BenchReport": "resnet_export.api.checks",
    "Event": "resnet_export.console.reporter",
    "ExportReport": "resnet_export.export_job.report",
    "FileResult": "resnet_export.export_job.report",
    "GateOutcome": "resnet_export.api.verify",
    "Model": "runtimes.inference.model",
    "Preprocessing": "resnet_export.api.preprocessing",
    "SensitivityReport": "resnet_export.api.checks",
    "Verification": "resnet_export.api.verify",
    "bench": "resnet_export.api.checks",
    "build": "resnet_export.api.deploy",
    "classify": "resnet_export.api.deploy",
    "deepstream": "resnet_export.api.deploy",
    "doctor": "resnet_export.api.checks",
    "export": "resnet_export.api.export",
    "lint": "resnet_export.commands.lint",
    "load": "runtimes.inference.load",
    "models": "resnet_export.api.checks",
    "quantize": "resnet_export.api.quantize",
    "sensitivity": "resnet_export.api.checks",
    "triton": "resnet_export.api.deploy",
    "verify": "resnet_export.api.verify",
}

__all__ = [
    "BenchReport",
    "Event",
    "ExportReport",
    "FileResult",
    "GateOutcome",
    "Model",
    "Preprocessing",
    "SensitivityReport",
    "Verification",
    "__version__",
    "bench",
    "build",
    "classify",
    "deepstream",
    "doctor",
    "export",
    "lint",
    "load",
    "models",
    "quantize",
    "sensitivity",
    "triton",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a name's module, and with it what it needs, when it is first named."""
    if name not in _HOMES:
        raise AttributeError(f"module 'resnet_export' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the names above, imported or not."""
    return sorted(__all__)
