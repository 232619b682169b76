"""Forms of operators that TensorRT refuses or computes otherwise, told by the export: `lint`'s rules T006 and T007.

They are of the network, so that every file of the bundle has them. Where an engine is asked for nothing is written.
"""

from __future__ import annotations

from onnx import ModelProto

from calibration.lint.quantized_graph import quantized_graph
from calibration.lint.target_rules import forms
from exporter.errors import ExportError
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.options import ExportOptions
from runtimes.first_few import first_few

_MAX_PLACES = 3
ANY_ENGINE = "any engine"
"""What the warnings tell not to deploy, instead of a file of the bundle."""


def tell_refused_forms(model: ModelProto, options: ExportOptions, reporter: Reporter) -> None:
    """Warn of what TensorRT does not take, where the files are for it.

    Raises:
        ExportError: If an engine is asked for, which would not be built or would answer otherwise.
    """
    if not options.engine and options.target.dialect != "tensorrt":
        return
    found = [
        f"{finding.message} ({finding.rule.id}), in {first_few(finding.places, _MAX_PLACES)}"
        for finding in forms(quantized_graph(model))
    ]
    if found and options.engine:
        raise ExportError(
            f"--engine: {'; '.join(found)}. Change these layers, or leave --engine out: ONNX Runtime runs the files"
        )
    for line in found:
        reporter.warn(f"{line}; other runtimes take the files, but no engine can be relied on", doubted=[ANY_ENGINE])
