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

from typing import TYPE_CHECKING

from runtimes.lazy_names import lazy_names

__all__ = ["Finding", "LintReport", "LintTarget", "Rule", "Severity", "lint_file", "lint_model", "sarif_log"]

if TYPE_CHECKING:
    from calibration.lint.finding import Finding, LintTarget, Rule, Severity
    from calibration.lint.lint_report import LintReport, lint_file, lint_model
    from calibration.lint.sarif import sarif_log


__getattr__ = lazy_names(
    __name__,
    {
        "calibration.lint.finding": ("Finding", "LintTarget", "Rule", "Severity"),
        "calibration.lint.lint_report": ("LintReport", "lint_file", "lint_model"),
        "calibration.lint.sarif": ("sarif_log",),
    },
)
