"""`resnet-export lint FILE.onnx|BUNDLE`: what keeps an ONNX file, ours or any other tool's, from being fast and right.

Exit codes: 0 clean; 1 findings as bad as `--fail-on` says; 2 wrong use, or no ONNX file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from calibration.lint.finding import Finding, LintTarget, Severity
from exporter.target import IR_VERSION_OF_NEWER_OPSET, IR_VERSION_OF_OPSET, MIN_OPSET, TARGETS, Target
from exporter.version import __version__
from resnet_export.console.option_types import file_to_write
from resnet_export.console.put_json import add_json_option, prints_json, put_json
from runtimes.argument_kinds import StrPath, checked_kinds
from runtimes.bundle.described_file import load_unchanged
from runtimes.counted import counted
from runtimes.errors import BundleError, MissingDependencyError
from runtimes.first_few import first_few

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.lint.lint_report import BundleLintReport, LintReport
    from calibration.lint.rule_registry import BatchNormFate

DEFAULT_TARGET = "tensorrt"
EXIT_FINDINGS = 1
STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
MAX_PLACES = 4
"""Places shown per finding; the JSON has all of them."""


def run(arguments: argparse.Namespace) -> int:
    """Lint a file, or every ONNX file of a bundle; return 0 or 1.

    Raises:
        OnnxFileError: If the file is missing, corrupt, or no ONNX file.
        MissingDependencyError: If onnx is not installed.
    """
    printed = prints_json(arguments)
    found = lint(arguments.model, target=arguments.target)
    fail_on = Severity(arguments.fail_on)
    if arguments.json is not None:
        put_json(found.to_json(), arguments.json)
    if arguments.sarif is not None:
        from calibration.lint.sarif import sarif_log

        logs = [sarif_log(report, tool_version=__version__, root=Path.cwd()) for report in found.files]
        put_json({**logs[0], "runs": [run for log in logs for run in log["runs"]]}, arguments.sarif)
    if not arguments.quiet and not printed:
        for report in found.files:
            _print(report, fail_on)
    return EXIT_FINDINGS if found.fails(fail_on) else 0


@checked_kinds
def lint(model: StrPath, *, target: str | None = None) -> LintReport | BundleLintReport:
    """Return what keeps an ONNX file, of this or any other tool, from being fast and right on a target.

    Args:
        model: The file, or a bundle, all of whose ONNX files are looked at: `.files` are the reports. Only read.
        target: A name of `exporter.target.TARGETS`; a bundle's own by default, of a file "tensorrt".

    Raises:
        OnnxFileError: If the file is missing, corrupt, or no ONNX file.
        BundleError: If a folder is no bundle, or was changed.
        MissingDependencyError: If onnx is not installed.
        ValueError: If there is no such target.
    """
    try:
        from calibration.lint.lint_report import BundleLintReport, lint_file
    except ModuleNotFoundError as err:
        if err.name not in ("onnx", "google"):
            raise
        raise MissingDependencyError('onnx is needed to read ONNX files; pip install "resnet-export[export]"') from err
    path = Path(model)
    if not path.is_dir():
        return lint_file(path, lint_target(TARGETS.named(target or DEFAULT_TARGET)), fold_check=fold_check)
    manifest = load_unchanged(path)
    own = manifest.target if manifest.target in TARGETS else DEFAULT_TARGET
    wanted = lint_target(TARGETS.named(target or own))
    names = sorted(name for name in manifest.files if name.endswith(".onnx"))
    if not names:
        raise BundleError(f"{path} holds no ONNX file; export it anew")
    return BundleLintReport(path, tuple(lint_file(path / name, wanted, fold_check=fold_check) for name in names))


def lint_target(target: Target) -> LintTarget:
    """Return what the rules must know of a target."""
    newest = target.newest_read or target.max_opset
    return LintTarget(
        name=target.name,
        reads=target.reads,
        min_opset=MIN_OPSET,
        max_opset=target.max_opset,
        max_ir_version=IR_VERSION_OF_OPSET[target.max_opset],
        newest_opset=newest,
        newest_ir_version={**IR_VERSION_OF_OPSET, **IR_VERSION_OF_NEWER_OPSET}[newest],
        newest_reader=target.newest_reader,
        is_tensorrt=target.dialect == "tensorrt",
        is_tensorrt_8=target.is_tensorrt_8,
    )


def fold_check(model: ModelProto, folder: Path | None) -> BatchNormFate:
    """Return what `passes.fold_affine` would do with the BatchNormalization nodes; `model` is left as it is."""
    from onnx.external_data_helper import load_external_data_for_model

    from calibration.lint.quantized_graph import quantized_graph
    from calibration.lint.rule_registry import BatchNormFate
    from exporter.graph.onnx_graph import copy_model
    from exporter.passes.fold_affine import fold_affine

    named = copy_model(model)
    output_of: dict[str, str] = {}
    for node, name in zip(named.graph.node, quantized_graph(model, folder).names, strict=True):
        node.name = name if name not in output_of else f"{name}, {len(output_of)}"
        output_of[node.name] = next(filter(None, node.output), "")
    try:
        if folder is not None:
            load_external_data_for_model(named, str(folder))
        _, folds = fold_affine(named)
    except Exception as err:  # a damaged file, whose other findings are still worth telling
        reason = f"folding cannot be judged: {' '.join(str(err).split())}"
        return BatchNormFate({}, {node.output[0]: reason for node in named.graph.node})
    return BatchNormFate(
        {output_of[name]: layer for name, layer in folds.folded},
        {output_of[name]: reason for name, reason in folds.kept},
    )


def _print(report: LintReport, fail_on: Severity) -> None:
    """Print the verdict, the file in figures, then one finding under another, errors first."""
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    failed = report.fails(fail_on)
    counts = ", ".join(counted(report.count(severity), severity.value) for severity in Severity)
    verdict = "[bold red]FAIL[/bold red]" if failed else "[bold green]PASS[/bold green]"
    console.print(f"{verdict} {escape(str(report.path))} for {report.target.name}: {counts}")
    for line in _summary_lines(report):
        console.print(f"     {escape(line)}")
    for severity in Severity:
        findings = [finding for finding in report.findings if finding.severity is severity]
        if findings:
            style = STYLES[severity]
            console.print(f"\n[{style}]{severity.value}s[/{style}]")
        for finding in findings:
            console.print(f"  {finding.rule.id} {escape(_line(finding))}")
            if severity is not Severity.NOTE:
                console.print(f"       [dim]{escape(finding.rule.remedy)}[/dim]")


def _summary_lines(report: LintReport) -> list[str]:
    summary = report.summary
    lines = []
    if summary.dialect == "none":
        lines.append(
            f"float: {counted(summary.num_layers, 'layer')}, {counted(summary.num_residual_adds, 'residual Add')}"
        )
    else:
        kind = "mixed dialects" if summary.dialect == "mixed" else f"{summary.dialect}'s dialect"
        fused = "fusable" if report.target.is_tensorrt else "on integers"
        adds = f", {summary.num_fusable_adds}/{counted(summary.num_residual_adds, 'residual Add')} {fused}"
        layers = f"{summary.num_quantized_layers}/{counted(summary.num_layers, 'layer')} in INT8"
        lines.append(f"{kind}: {layers}{adds if summary.num_residual_adds else ''}")
    inputs = ", ".join(f"{name} [{', '.join(map(str, sizes))}]" for name, sizes in summary.inputs.items())
    written = f", written by {summary.producer}" if summary.producer else ""
    lines.append(f"opset {summary.opset}, IR version {summary.ir_version}, {inputs}{written}")
    return lines


def _line(finding: Finding) -> str:
    places = finding.places
    if not places:
        return finding.message
    times = f" ({len(places)} x)" if len(places) > 1 else ""
    return f"{finding.message}{times}: {first_few(places, MAX_PLACES)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = (
        "Look at an ONNX file, of this or any other tool, for what its target refuses, computes otherwise, or runs"
        " slower than it could: Q/DQ dialect, residual Adds that cannot fuse, layers left in float, scales, zero "
        "points, opset, external data, BatchNormalization."
    )
    parser.epilog = "exit codes: 0 clean, 1 findings as bad as --fail-on, 2 wrong use or no ONNX file"
    parser.add_argument(
        "model", type=Path, metavar="FILE.onnx|BUNDLE", help="a file, or all ONNX files of a bundle; they are only read"
    )
    parser.add_argument(
        "--target",
        choices=list(TARGETS),
        help="where the file shall run (default: the bundle's; of a file alone tensorrt)",
    )
    add_json_option(parser, "the findings")
    parser.add_argument("--sarif", type=file_to_write, metavar="FILE", help="and as SARIF 2.1.0, for code scanning")
    parser.add_argument(
        "--fail-on", choices=("error", "warning"), default="error", help="what makes the exit code 1 (default: error)"
    )
