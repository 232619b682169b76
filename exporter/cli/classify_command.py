"""`resnet-export classify --bundle BUNDLE --input DIR|LIST --output results.parquet`: many images, here or on Ray.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.bundle_engine import ONNX_FILES
from exporter.cli.option_types import positive
from exporter.cli.terminal import Terminal
from exporter.errors import ExportError
from runtimes.classify_images import ImageClassifier, check_outputs, score_kind, usable_cpus
from runtimes.classify_on_ray import LOCAL, rows_from_ray
from runtimes.classify_run import DoneParts, RunReport, check_run, local_parts, report_path, run, run_plan
from runtimes.image_list import list_images
from runtimes.manifest import Manifest, check_files, load_manifest
from runtimes.result_parts import parts_folder

EXIT_ERRORS = 1
EXIT_INTERRUPTED = 130

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True, slots=True)
class OpenClassifier:
    """How to open the model, here or in a Ray worker; picklable, and the key under which a worker keeps it.

    Attributes:
        bundle: Absolute path of the bundle folder.
        precision: "fp32", "fp16" or "int8".
        provider: "cpu", "cuda" or "tensorrt".
        top_k: Classes in a row.
        batch_size: Images in a batch.
        decoders: Decoding threads.
        root: Where relative paths of images begin, on whatever machine.
        num_threads: Threads of one operator; 0 lets ONNX Runtime choose.
    """

    bundle: Path
    precision: str
    provider: str
    top_k: int
    batch_size: int
    decoders: int
    root: Path
    num_threads: int = 0

    def __call__(self) -> ImageClassifier:
        """Return the open classifier."""
        from runtimes import OrtRuntime

        model = OrtRuntime(
            self.bundle / ONNX_FILES[self.precision],
            providers=(_PROVIDERS[self.provider],),
            num_threads=self.num_threads,
        )
        manifest = load_manifest(self.bundle)
        return ImageClassifier(
            model,
            manifest,
            top_k=self.top_k,
            batch_size=self.batch_size,
            decoders=self.decoders,
            root=self.root,
        )


def run_classify(words: Sequence[str]) -> int:
    """Classify; return 0, 1 if some files could not be read, 130 if interrupted, or raise what the run raises."""
    arguments = _parser().parse_args(words)
    terminal = Terminal(quiet=arguments.quiet)
    manifest = load_manifest(arguments.bundle)
    check_files(arguments.bundle, manifest)
    check_outputs(manifest, arguments.top_k)
    precision = arguments.precision or _precision(manifest)
    if ONNX_FILES[precision] not in manifest.files:
        raise ExportError(f"{arguments.bundle} holds no {precision} model; export with --{precision}")
    paths = list_images(arguments.input)
    plan = run_plan(
        paths,
        batch_size=arguments.batch,
        model_sha256=manifest.files[ONNX_FILES[precision]].sha256,
        preprocessing=manifest.preprocessing.to_json(),
        precision=precision,
        provider=arguments.provider,
        top_k=arguments.top_k,
    )
    report = check_run(arguments.output, plan, resume=arguments.resume, force=arguments.force)
    if report is None:
        try:
            report = _classify(arguments, manifest, precision, paths, plan, terminal)
        except KeyboardInterrupt:
            folder = parts_folder(arguments.output)
            print(f"\ninterrupted; what is done is in {folder}/, --resume goes on with it", file=sys.stderr)
            return EXIT_INTERRUPTED
    _tell(report, arguments.output, terminal, as_json=arguments.json)
    return EXIT_ERRORS if report.num_errors and not arguments.skip_errors else 0


def _precision(manifest: Manifest) -> str:
    """Return the file to run: FP32, unless the INT8 one was written for ONNX Runtime's integer kernels."""
    return "int8" if manifest.target == "onnxruntime" and ONNX_FILES["int8"] in manifest.files else "fp32"


def _classify(
    arguments: argparse.Namespace,
    manifest: Manifest,
    precision: str,
    paths: Sequence[str],
    plan: dict[str, object],
    terminal: Terminal,
) -> RunReport:
    on_ray = arguments.ray is not None
    opener = OpenClassifier(
        arguments.bundle.absolute(),
        precision,
        arguments.provider,
        arguments.top_k,
        arguments.batch,
        decoders=1 if on_ray else arguments.workers or usable_cpus(),
        root=Path.cwd(),
        num_threads=1 if on_ray else 0,
    )
    labels = arguments.bundle / "labels.txt"
    names = labels.read_text(encoding="utf-8").splitlines() if labels.name in manifest.files else None
    with terminal.steps("classifying") as move:
        settings = {"labels": names, "top_k": arguments.top_k, "score": score_kind(manifest)}
        again = {"resume": arguments.resume, "force": arguments.force}

        def progress(num_done: int) -> None:
            move(f"{num_done} of {len(paths)} images", num_done, len(paths))

        def work(done_parts: DoneParts) -> RunReport:
            return run(arguments.output, paths, plan, done_parts, **settings, **again, progress=progress)

        if not on_ray:
            with opener() as classifier:
                return work(local_parts(classifier))
        gpus = 0 if arguments.provider == "cpu" else 1
        return work(
            lambda parts: rows_from_ray(
                parts, opener, address=arguments.ray, workers=arguments.workers, gpus_per_worker=gpus
            )
        )


def _tell(report: RunReport, output: Path, terminal: Terminal, *, as_json: bool) -> None:
    if report.resumed_images == report.num_images:
        terminal.done("nothing was left to do: an earlier run had done all images")
    elif report.resumed_images:
        terminal.done(f"{report.resumed_images} images had been done by an interrupted run")
    terminal.done(f"{report.num_images} images classified: {output}, report {report_path(output)}")
    if report.num_errors:
        shown = "".join(f"\n  {example}" for example in report.examples)
        more = report.num_errors - len(report.examples)
        terminal.warn(
            f"{report.num_errors} of {report.num_images} files could not be read; their rows say why:{shown}"
            + (f"\n  and {more} more" if more else "")
        )
    if as_json:
        print(
            json.dumps({"output": str(output), **report.to_json(), "resumed_images": report.resumed_images}, indent=2)
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-export classify",
        description="Classify many images with a bundle's model; one row for each, in the order of the input.",
        epilog="exit codes: 0 done, 1 done but some files could not be read (their rows say why; --skip-errors makes "
        "it 0), 2 wrong use or bad input, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="DIR|LIST",
        help="a folder, searched recursively, or a file with one path a line (or NUL-separated, find -print0)",
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FILE", help="results .parquet, .csv or .jsonl"
    )
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="classes in a row (default 5)")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="images in a batch (default 32)")
    parser.add_argument("--precision", choices=tuple(ONNX_FILES), help="which file of the bundle (default: fp32)")
    parser.add_argument("--provider", choices=tuple(_PROVIDERS), default="cpu", help="what runs it (default cpu)")
    parser.add_argument("--workers", type=positive, metavar="N", help="decoding threads; with --ray tasks at a time")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run, if there is one")
    parser.add_argument("--force", action="store_true", help="begin anew and replace the output")
    parser.add_argument("--skip-errors", action="store_true", help="exit with 0 although files could not be read")
    parser.add_argument(
        "--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help="run on Ray: a cluster's address, or one started here"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    return parser
