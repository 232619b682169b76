"""`resnet-export verify BUNDLE|MODEL.onnx|ENGINE`: does it still answer like its reference, and if not, what broke?

Exit codes: 0 every gate passes; 1 one fails; 2 wrong use or bad input; 3 inconclusive: too few images for the claim.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from exporter.models.loaded_model import DEFAULT_WEIGHTS
from exporter.preprocessing.options import PreprocessingOptions
from resnet_export.console.image_options import add_preprocessing_options, add_val_options
from resnet_export.console.option_types import file_to_append, file_to_write, positive, runtime_of_files
from resnet_export.console.put_json import add_json_option, prints_json
from resnet_export.console.terminal import Terminal
from resnet_export.images.gather import gathered_val
from resnet_export.verify_job.job import run_verify
from resnet_export.verify_job.options import VerifyOptions
from resnet_export.verify_job.subject import PRECISIONS, TORCH
from resnet_export.verify_job.write_reports import write_reports
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.verification.html import check_libraries


def run(arguments: argparse.Namespace) -> int:
    """Judge; print and write the report; return the exit code."""
    prints_json(arguments)
    if arguments.html is not None:
        check_libraries()  # before the work
    with ExitStack() as stack:  # the page shows images of what --val gathered
        report = run_verify(_options(arguments, stack), Terminal(quiet=arguments.quiet))
        return write_reports(report, arguments)


def _options(arguments: argparse.Namespace, stack: ExitStack) -> VerifyOptions:
    """Return the options that the words say; images that lie in no one folder are gathered until `stack` is left."""
    words = vars(arguments)
    said = PreprocessingOptions(**{option.name: words[option.name] for option in fields(PreprocessingOptions)})
    asked = {option.name: words[option.name] for option in fields(VerifyOptions) if option.name in words}
    asked |= {"precision": tuple(arguments.precision), "gates": tuple(arguments.gates), "preprocessing": said}
    return VerifyOptions(**asked | {"val": gathered_val(arguments.val, arguments.val_label_file, stack)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = (
        "Judge a bundle's files, an ONNX file or a TensorRT engine against their reference: PyTorch's answers "
        "stored in the bundle, the bundle's own FP32 file on images of --val, or the model of --against."
    )
    parser.epilog = "exit codes: 0 every gate passes, 1 one fails, 2 wrong use or bad input, 3 inconclusive"
    parser.add_argument("subject", type=Path, metavar="BUNDLE|MODEL.onnx|ENGINE")
    _add_sides(parser)
    group = parser.add_argument_group("images and gates")
    add_val_options(
        group, "images to compare on, as --val of the main command; in class folders or with labels, also accuracy"
    )
    group.add_argument(
        "--gate",
        dest="gates",
        action="append",
        default=[],
        metavar="FILE|NAME=VALUE",
        help="threshold, such as agreement=0.98, int8.sqnr_db=25 or top1_drop_pp=off, or a TOML file of them; repeat",
    )
    group.add_argument("--baseline", type=Path, metavar="FILE", help="JSON report of an earlier run: what moved since")
    group.add_argument("--bisect", action="store_true", help="compare block by block and name the one that broke")
    group = parser.add_argument_group("output")
    add_json_option(group, "the whole report")
    for name, what, kind in (
        ("junit", "JUnit XML for test viewers", file_to_write),
        ("markdown", "a summary, appended, as for $GITHUB_STEP_SUMMARY", file_to_append),
        ("html", "a page to look at, in one file", file_to_write),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="FILE", help=f"write {what}")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what runs, against whom")
    group.add_argument(
        "--precision", action="append", default=[], choices=PRECISIONS, help="judge this file of the bundle; repeat"
    )
    group.add_argument(
        "--provider",
        type=lambda text: TORCH if text == TORCH else runtime_of_files(text),
        metavar="|".join((*RUNTIMES, TORCH)),
        help="what runs it, as for load(); torch tests the model of --against (default cpu; an engine's own)",
    )
    group.add_argument("--against", metavar="MODEL", help="trust this model instead, as MODEL of the main command")
    group.add_argument("--weights", default=DEFAULT_WEIGHTS, metavar="W", help="of --against, as in the main command")
    group.add_argument("--num-classes", type=positive, metavar="N", help="of --against")
    group = parser.add_argument_group("images of --against, where its weights do not say")
    add_preprocessing_options(group)
