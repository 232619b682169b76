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

from typing import TYPE_CHECKING

from exporter.version import __version__
from runtimes.lazy_names import lazy_names

if TYPE_CHECKING:
    from resnet_export.api.checks import BenchReport, SensitivityReport, bench, doctor, sensitivity
    from resnet_export.api.deploy import build, classify, deepstream, triton
    from resnet_export.api.export import export
    from resnet_export.api.preprocessing import Preprocessing
    from resnet_export.api.quantize import quantize
    from resnet_export.api.verify import GateOutcome, Verification, verify
    from resnet_export.commands.lint import lint
    from resnet_export.commands.models import models
    from resnet_export.console.reporter import Event
    from resnet_export.export_job.report import ExportReport, FileResult
    from runtimes.inference.load import load
    from runtimes.inference.model import Model

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


__getattr__ = lazy_names(
    __name__,
    {
        "resnet_export.api.checks": ("BenchReport", "SensitivityReport", "bench", "doctor", "sensitivity"),
        "resnet_export.api.deploy": ("build", "classify", "deepstream", "triton"),
        "resnet_export.api.export": ("export",),
        "resnet_export.api.preprocessing": ("Preprocessing",),
        "resnet_export.api.quantize": ("quantize",),
        "resnet_export.api.verify": ("GateOutcome", "Verification", "verify"),
        "resnet_export.commands.lint": ("lint",),
        "resnet_export.commands.models": ("models",),
        "resnet_export.console.reporter": ("Event",),
        "resnet_export.export_job.report": ("ExportReport", "FileResult"),
        "runtimes.inference.load": ("load",),
        "runtimes.inference.model": ("Model",),
    },
)


def __dir__() -> list[str]:
    """Return the names above, imported or not."""
    return sorted(__all__)
