"""`resnet-export deepstream BUNDLE -o DIR`: the bundle as a folder for DeepStream's nvinfer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from shlex import quote

from exporter.deploy.deepstream import DeepStreamReport, write_deepstream
from exporter.deploy.nvinfer_config import CONFIG, NvinferSettings, resize_notes
from resnet_export.console.option_types import positive, probability
from resnet_export.console.put_json import put_json
from resnet_export.console.reporter import Reporter
from resnet_export.console.terminal import Terminal
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import load_manifest


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; return 0, or raise what writing it raises."""
    from runtimes.ort.exact_sessions import open_exact

    reporter = Terminal(quiet=arguments.quiet)
    settings = NvinferSettings(
        batch=arguments.batch,
        threshold=arguments.threshold,
        unique_id=1 if arguments.secondary is None else arguments.secondary + 1,
        operate_on=arguments.secondary,
        strongly_typed=arguments.strongly_typed,
        frame=arguments.frame,
    )
    report = write_deepstream(
        arguments.bundle,
        arguments.output,
        precision=arguments.precision,
        settings=settings,
        single_scale=arguments.single_scale,
        open_runtime=open_exact,
        force=arguments.force,
    )
    _tell(report, arguments, settings, reporter)
    if arguments.json:
        put_json({"output": str(arguments.output), **asdict(report)})
    elif not arguments.quiet:
        print(
            f"\nfolder: {arguments.output}/\nnext:   nvinfer config-file-path={quote(str(arguments.output / CONFIG))}"
        )
    return 0


def _tell(
    report: DeepStreamReport, arguments: argparse.Namespace, settings: NvinferSettings, reporter: Reporter
) -> None:
    how = {
        "config": "nvinfer normalizes by net-scale-factor and offsets",
        "graph": "the model normalizes levels 0-255, because one net-scale-factor would be off by up to "
        f"{report.single_scale_deviation:.3g} for its three stds",
        "single-scale": "nvinfer normalizes with one net-scale-factor",
    }[report.normalized_by]
    reporter.done(f"{arguments.output / report.file}: {how}")
    same = "" if report.agreement is None else f", {report.agreement:.1%} equal best classes"
    reporter.done(
        f"answers like the bundle's on {report.num_images} pictures prepared as nvinfer does: largest |difference| "
        f"{report.max_abs_diff:.2g}{same} (ONNX Runtime; nvinfer was not run)"
    )
    for warning in report.warnings:
        reporter.warn(warning)
    reporter.warn("\n  ".join(resize_notes(load_manifest(arguments.bundle).preprocessing, settings.frame)))


def _frame(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    return positive(width), positive(height)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Write an nvinfer configuration, its labels and a model that nvinfer feeds as in training."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--precision", choices=tuple(MODEL_FILES), help="which file (default: the lowest there is)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="frames at a time (default 1)")
    parser.add_argument(
        "--threshold", type=probability, default=0.0, metavar="P", help="least probability of a class (default 0)"
    )
    parser.add_argument(
        "--secondary", type=positive, metavar="ID", help="classify objects of the detector with this gie-unique-id"
    )
    parser.add_argument(
        "--frame", type=_frame, default=(1920, 1080), metavar="WxH", help="of the camera, for the advice on cropping"
    )
    parser.add_argument(
        "--single-scale",
        action="store_true",
        help="one net-scale-factor although channels have several stds; how far off is told",
    )
    parser.add_argument(
        "--strongly-typed", action="store_true", help="for new DeepStream versions: the file's types decide"
    )
    parser.add_argument("--force", action="store_true", help="replace a folder that this command wrote before")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
