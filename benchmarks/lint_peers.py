"""`resnet-export lint` on what the real quantizers write: ONNX Runtime, ModelOpt, NNCF, and ours.

    python benchmarks/lint_peers.py --create-environments ENVS                    ResNet-50, random weights, photographs
    python benchmarks/lint_peers.py model.onnx --resize 224x224 --environments ENVS --work DIR --json lint.json

Every quantizer gets the same FP32 file and the same prepared photographs; its file is linted for TensorRT and for ONNX
Runtime. Where a residual Add carries its Q/DQ follows from how a quantizer places pairs, not from weights or images, so
random weights show it: ONNX Runtime and NNCF have them on both sides of every Add, ModelOpt and ours on one. A run that
finds otherwise ends with exit code 1.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

import onnx

from benchmarks.quantizer_environments import interpreter_of
from benchmarks.quantizer_images import network_from, prepare_photographs, preprocessing_from
from benchmarks.quantizer_settings import OURS, chosen
from benchmarks.quantizers import file_of, run_row
from calibration.lint import LintReport, lint_file
from exporter.target import TARGETS
from resnet_export.commands.lint import fold_check, lint_target
from resnet_export.console.option_types import positive, resize

ROWS = "resnet-export max,onnxruntime MinMax,modelopt max,nncf default"
"""One row per way to place Q/DQ; ranges do not matter here."""

BOTH, ONE = "both sides", "one side"
EXPECTED = {"onnxruntime": BOTH, "nncf": BOTH, "modelopt": ONE, OURS: ONE}
"""Environment to where its residual Adds have Q/DQ."""


def main() -> int:
    options = parse_options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.work or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        model = options.model or random_resnet50(folder)
        network = network_from(model, None, preprocessing_from(None, options.resize, None, None))
        prepare_photographs(folder, network, options.photographs)
        rows = [linted(row, folder, options) for row in chosen(options.only, second_order=False)]
    print("\n".join(table(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = [row for row in rows if row.get("adds") not in (None, row["expected"])]
    for row in wrong:
        print(f"{row['name']}: residual Adds {row['adds']}, expected {row['expected']}", file=sys.stderr)
    return 1 if wrong or all("error" in row for row in rows) else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="FP32 .onnx file; none: ResNet-50 with random weights")
    parser.add_argument("--resize", type=resize, default=(224, 224), metavar="HxW", help="default 224x224")
    parser.add_argument("--photographs", type=positive, default=8, metavar="N", help="calibration images (default 8)")
    homes = parser.add_mutually_exclusive_group()
    homes.add_argument("--environments", type=Path, metavar="DIR", help="the peers' environments, as made before")
    homes.add_argument("--create-environments", type=Path, metavar="DIR", help="make those that are missing")
    parser.add_argument("--only", default=ROWS, metavar="NAME,...", help="rows of benchmarks/quantizers.py --list")
    parser.add_argument("--batch-size", type=positive, default=2, metavar="N")
    parser.add_argument("--timeout", type=positive, default=1800, metavar="S", help="seconds a row may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every finding")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep images, files and logs here")
    return parser.parse_args()


def random_resnet50(folder: Path) -> Path:
    """Write ResNet-50 with random weights, folded, and return the file."""
    from exporter import export_resnet

    path = folder / "resnet50.onnx"
    onnx.save(export_resnet("resnet50", weights="random").onnx, path)
    return path


def linted(row: Any, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize with one row and lint its file, or say why there is none."""
    found: dict[str, Any] = {"name": row.name, "expected": EXPECTED[row.environment]}
    environments = options.environments or options.create_environments
    python = interpreter_of(row.environment, environments, create=options.create_environments is not None)
    if python.path is None:
        return {**found, "error": python.reason}
    try:
        measured = run_row(row, python.path, folder, options)
    except RuntimeError as err:
        return {**found, "error": str(err)[:400]}
    targets = [lint_target(TARGETS.named(name)) for name in ("tensorrt", "onnxruntime")]
    path = folder / file_of(row.name)
    reports = [lint_file(path, target, fold_check=fold_check) for target in targets]
    found |= {"versions": measured["versions"], "adds": where_adds_have_pairs(reports[0])}
    return {**found, "reports": {report.target.name: report.to_json() for report in reports}}


def where_adds_have_pairs(report: LintReport) -> str:
    """Return `BOTH` or `ONE` if it is so of every residual Add, else the counts."""
    both = sum(len(finding.places) for finding in report.findings if finding.rule.id == "R001")
    total, fusable = report.summary.num_residual_adds, report.summary.num_fusable_adds
    if both == total:
        return BOTH
    return ONE if fusable == total else f"both sides of {both}, fusable {fusable}, of {total}"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table."""
    yield "| file | dialect | layers in INT8 | residual Adds | fusable by TensorRT | for TensorRT | for ONNX Runtime |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if "error" in row:
            yield f"| {row['name']} | no file: {row['error']} | | | | | |"
            continue
        summary = row["reports"]["tensorrt"]["summary"]
        layers = f"{summary['num_quantized_layers']}/{summary['num_layers']}"
        fusable = f"{summary['num_fusable_adds']}/{summary['num_residual_adds']}"
        cells = [row["name"], summary["dialect"], layers, f"Q/DQ on {row['adds']}", fusable]
        yield f"| {' | '.join([*cells, *map(_verdict, row['reports'].values())])} |"


def _verdict(report: dict[str, Any]) -> str:
    """Return the rules that were broken, errors in bold."""
    worst: dict[str, str] = {}
    for finding in report["findings"]:
        if finding["severity"] != "note":
            worst.setdefault(
                finding["rule"], f"**{finding['rule']}**" if finding["severity"] == "error" else finding["rule"]
            )
    return " ".join(worst.values()) or "clean"


if __name__ == "__main__":
    sys.exit(main())
