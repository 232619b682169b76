"""The targets as the command gives them to the rules, and how tests look at a report."""

from __future__ import annotations

from calibration.lint import Finding, LintReport
from exporter.target import TARGETS
from resnet_export.commands.lint import lint_target

TENSORRT = lint_target(TARGETS.named("tensorrt"))
JETPACK5 = lint_target(TARGETS.named("jetpack5"))
ONNX_RUNTIME = lint_target(TARGETS.named("onnxruntime"))


def rule_ids(report: LintReport) -> list[str]:
    return [finding.rule.id for finding in report.findings]


def the_finding(report: LintReport, rule: str) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.rule.id == rule)
    return finding
