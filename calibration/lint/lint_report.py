"""Read a file, run every rule, and say how it stands.

Weights that the ONNX file keeps in other files stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from calibration.lint import coverage_rules, dialect_rules, interface_rules, residual_rules
from calibration.lint.finding import Finding, LintTarget, Severity
from calibration.lint.quantized_graph import QuantizedGraph, quantized_graph
from calibration.lint.rule_registry import RULE_FAMILIES, BatchNormFate, LintSubject
from exporter.graph.invalid_model import complete, why_not_walkable
from exporter.graph.onnx_graph import STANDARD_DOMAINS, opset_of
from exporter.graph.read_model import read_model

SCHEMA_VERSION = 1

FoldCheck = Callable[[ModelProto, "Path | None"], BatchNormFate]
"""A model, and the folder of its external data, to what folding would do with its BatchNormalization nodes."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The file in figures.

    Attributes:
        dialect: "TensorRT", "ONNX Runtime", "mixed" or "none".
        num_layers: Convolutions and linear layers with a constant weight.
        num_quantized_layers: Those of them that compute in INT8.
        num_residual_adds: Additions of a main path and a shortcut.
        num_fusable_adds: Those that the target computes in INT8 with the layer before them (TensorRT) or on integers
            (ONNX Runtime); 0 in a float file.
        inputs: Name to sizes; a word for a dynamic axis.
    """

    producer: str
    opset: int
    ir_version: int
    dialect: str
    num_layers: int
    num_quantized_layers: int
    num_residual_adds: int
    num_fusable_adds: int
    inputs: dict[str, list[int | str]]


class Judged:
    """What is asked of the findings on one file or several."""

    __slots__ = ()
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def fails(self, fail_on: Severity) -> bool:
        """Tell whether there is a finding as bad as `fail_on`, or worse."""
        return any(finding.severity.rank <= fail_on.rank for finding in self.findings)


@dataclass(frozen=True, slots=True)
class LintReport(Judged):
    """Findings on one target, errors first, then as rules are listed; of a model in memory `path` is None."""

    path: Path | None
    target: LintTarget
    summary: Summary
    findings: tuple[Finding, ...]

    @property
    def files(self) -> tuple[LintReport, ...]:
        """Itself, as a bundle's report has one for each file."""
        return (self,)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "file": None if self.path is None else self.path.as_posix(),
            "target": self.target.name,
            "summary": asdict(self.summary),
            "counts": {severity.value: self.count(severity) for severity in Severity},
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class BundleLintReport(Judged):
    """The reports on every ONNX file of a bundle."""

    path: Path
    files: tuple[LintReport, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:  # type: ignore[override]  # read only, as a frozen field is
        """Those of all files, one file after another."""
        return tuple(finding for report in self.files for finding in report.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the reports as JSON values."""
        files = [report.to_json() for report in self.files]
        return {"schema_version": SCHEMA_VERSION, "bundle": self.path.as_posix(), "files": files}


def lint_file(path: Path, target: LintTarget, *, fold_check: FoldCheck | None = None) -> LintReport:
    """Read an ONNX file and run every rule.

    Raises:
        OnnxFileError: If the file is missing, empty, corrupt, truncated, or no ONNX file.
    """
    model = read_model(path, external_data=False)
    complete(model)
    return lint_model(model, target, path=path, fold_check=fold_check)


def lint_model(
    model: ModelProto, target: LintTarget, *, path: Path | None = None, fold_check: FoldCheck | None = None
) -> LintReport:
    """Run every rule on a model in memory; see `lint_file`. Functions of its own are looked at as written out."""
    model = _written_out(model)
    if problem := why_not_walkable(model.graph):
        return _unreadable(model, target, path, problem)
    problem = interface_rules.checker_problem(model, path)
    try:
        return _run_rules(model, target, path, fold_check, problem)
    except Exception:  # what the checker refuses may break any rule in any way; what it accepts must not
        if not problem:
            raise
        return _unreadable(model, target, path, problem)


def _written_out(model: ModelProto) -> ModelProto:
    if all(function.domain in STANDARD_DOMAINS for function in model.functions):  # those readers may not follow
        return model
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model)
    except Exception:  # a function that is broken, too; the rules tell what they see
        return model


def _run_rules(
    model: ModelProto, target: LintTarget, path: Path | None, fold_check: FoldCheck | None, problem: str
) -> LintReport:
    folder = None if path is None else path.parent
    graph = quantized_graph(model, folder)
    has_batchnorm = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    fate = fold_check(model, folder) if fold_check is not None and has_batchnorm else None
    subject = LintSubject(graph, target, fate, problem)
    findings = [finding for family in RULE_FAMILIES.values() for finding in family.check(subject)]
    findings.sort(key=lambda finding: finding.severity.rank)
    return LintReport(path, target, _summary(graph, target), tuple(findings))


def _unreadable(model: ModelProto, target: LintTarget, path: Path | None, problem: str) -> LintReport:
    nothing = Summary("", 0, int(model.ir_version), dialect_rules.NONE, 0, 0, 0, 0, {})
    finding = interface_rules.invalid_graph(f"{problem}; nothing else was looked at")
    return LintReport(path, target, nothing, (finding,))


def _summary(graph: QuantizedGraph, target: LintTarget) -> Summary:
    num_layers, num_quantized = coverage_rules.layer_counts(graph)
    adds = residual_rules.add_states(graph)
    fusable = [add.is_fusable if target.is_tensorrt else add.is_integer for add in adds]
    return Summary(
        producer=" ".join(filter(None, (graph.model.producer_name, graph.model.producer_version))),
        opset=opset_of(graph.model),
        ir_version=int(graph.model.ir_version),
        dialect=dialect_rules.dialect_of(graph).name,
        num_layers=num_layers,
        num_quantized_layers=num_quantized,
        num_residual_adds=len(adds),
        num_fusable_adds=sum(fusable),
        inputs={str(info.name): interface_rules.sizes_of(info) for info in interface_rules.inputs_of(graph)},
    )
