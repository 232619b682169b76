"""The targets as the command gives them to the rules, and how tests look at a report."""

from __future__ import annotations

from calibration.lint import Finding, LintReport
from exporter.target import target_from_name
from resnet_export.commands.lint import lint_target

TENSORRT = lint_target(target_from_name("tensorrt"))
JETPACK5 = lint_target(target_from_name("jetpack5"))
ONNX_RUNTIME = lint_target(target_from_name("onnxruntime"))


def rule_ids(report: LintReport) -> list[str]:
    return [finding.rule.id for finding in report.findings]


def the_finding(report: LintReport, rule: str) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.rule.id == rule)
    return finding
