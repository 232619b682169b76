"""Rules that an ONNX file must keep to be fast and right on its target; for any file, also other tools'.

One module per family of rules (`rule_registry`), each a generator of findings over a `QuantizedGraph`:

    dialect_rules    D...  whose Q/DQ it is: TensorRT's, ONNX Runtime's, mixed
    residual_rules   R...  whether Conv + Add + ReLU can be one INT8 kernel
    coverage_rules   L...  layers, weights and pairs that are not as INT8 needs them
    scale_rules      S...  scales, zero points and integer types
    target_rules     T...  opset, IR version, operators that the target reads otherwise
    interface_rules  I...  batch, image size, external data, the file itself
    batchnorm_rules  B...  BatchNormalization that is left

Needs onnx and NumPy; no runtime, no GPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Finding", "LintReport", "LintTarget", "Rule", "Severity", "lint_file", "lint_model", "sarif_log"]

_HOME = {
    "Finding": "calibration.lint.finding",
    "Rule": "calibration.lint.finding",
    "Severity": "calibration.lint.finding",
    "LintTarget": "calibration.lint.finding",
    "LintReport": "calibration.lint.lint_report",
    "lint_file": "calibration.lint.lint_report",
    "lint_model": "calibration.lint.lint_report",
    "sarif_log": "calibration.lint.sarif",
}

if TYPE_CHECKING:
    from calibration.lint.finding import Finding, LintTarget, Rule, Severity
    from calibration.lint.lint_report import LintReport, lint_file, lint_model
    from calibration.lint.sarif import sarif_log


def __getattr__(name: str) -> Any:
    """Import a name's module when it is asked for, so that a bare import is quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
