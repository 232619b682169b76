"""`resnet-export classify --bundle BUNDLE --input DIR|LIST --output results.parquet`: many images, here or on Ray.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from resnet_export.console.option_types import positive, runtime, runtime_words
from resnet_export.console.put_json import put_json
from resnet_export.console.reporter import Reporter
from resnet_export.console.terminal import Terminal
from runtimes import load
from runtimes.batch_inference.classify_images import ImageClassifier, check_outputs, score_kind
from runtimes.batch_inference.ray_backend import LOCAL, RayWork
from runtimes.batch_inference.resume import parts_folder
from runtimes.batch_inference.run import LocalWork, RunReport, Work, check_output, report_path, run_plan
from runtimes.batch_inference.run import run as run_batches
from runtimes.bundle.manifest import Manifest, load_manifest, read_labels
from runtimes.bundle.precision import LOWEST_FIRST
from runtimes.counted import counted
from runtimes.inference.runtime_registry import AUTO, RUNTIMES
from runtimes.preprocessing.image_folder import files_passed_over, passed_over_told
from runtimes.preprocessing.image_list import list_images
from runtimes.preprocessing.model_input import BACKENDS
from runtimes.side_by_side import usable_cpus

EXIT_ERRORS = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class OpenClassifier:
    """How to open the model, here or in a Ray worker; picklable, and the key under which a worker keeps it."""

    bundle: Path
    root: Path
    provider: str
    precision: str | None
    backend: str
    draft: bool
    threads: int | None
    top_k: int
    batch_size: int
    decoders: int

    def __call__(self) -> ImageClassifier:
        """Return the open classifier."""
        model = load(
            self.bundle,
            provider=self.provider,
            precision=self.precision,
            threads=self.threads,
            backend=self.backend,
            draft=self.draft,
        )
        try:
            return ImageClassifier(
                model, top_k=self.top_k, batch_size=self.batch_size, decoders=self.decoders, root=self.root
            )
        except BaseException:  # an interrupt too: nothing may stay open that nobody holds
            model.close()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """Images to classify, the model, and where the rows go; fields as on the command line."""

    bundle: Path
    input: tuple[Path, ...]
    output: Path
    provider: str = AUTO
    precision: str | None = None
    backend: str = BACKENDS[0]
    draft: bool = False
    top_k: int = 5
    batch: int = 32
    workers: int | None = None
    ray: str | None = None
    resume: bool = False
    force: bool = False


def run(arguments: argparse.Namespace) -> int:
    """Classify; return 0, 1 if some files could not be read, 130 if interrupted, or raise what the run raises."""
    named = {field.name: vars(arguments)[field.name] for field in fields(ClassifyOptions)}
    options = ClassifyOptions(**{**named, "input": tuple(arguments.input)})
    reporter = Terminal(quiet=arguments.quiet)
    try:
        report = classify_folder(options, reporter)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; what is done is in {parts_folder(arguments.output)}/, --resume goes on with it",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    if arguments.json:
        put_json({"output": str(options.output), **report.to_json(), "resumed_images": report.resumed_images})
    return EXIT_ERRORS if report.num_errors and not arguments.skip_errors else 0


def classify_folder(options: ClassifyOptions, reporter: Reporter) -> RunReport:
    """Classify many images, here or on Ray; what an interrupted run had done is kept for `resume`.

    Raises:
        RuntimeAdapterError: If the bundle does not open, there are no images, or the output exists.
    """
    manifest = load_manifest(options.bundle)
    check_outputs(manifest, options.top_k)
    paths = [path for source in options.input for path in list_images(source)]
    for source in options.input:
        if source.is_dir() and (others := files_passed_over(source)):
            reporter.warn(passed_over_told(str(source), others))
    if not paths:
        raise ValueError("input: got an empty list; expected folders, images, or lists of images")
    check_output(options.output, resume=options.resume, force=options.force)
    on_ray = options.ray is not None
    opener = OpenClassifier(
        bundle=options.bundle.absolute(),
        root=Path.cwd(),
        provider=options.provider,
        precision=options.precision,
        backend=options.backend,
        draft=options.draft,
        threads=1 if on_ray else None,
        top_k=options.top_k,
        batch_size=options.batch,
        decoders=1 if on_ray else options.workers or usable_cpus(),
    )
    if options.ray is not None:
        gpus = 1 if options.provider == AUTO or RUNTIMES[options.provider].needs_gpu else 0
        with RayWork(opener, address=options.ray, workers=options.workers, gpus_per_worker=gpus) as work:
            report = _classify(options, manifest, paths, work, reporter)
    else:
        with opener() as classifier:
            report = _classify(options, manifest, paths, LocalWork(classifier), reporter)
    _tell(report, options.output, reporter)
    return report


def _classify(
    options: ClassifyOptions, manifest: Manifest, paths: Sequence[str], work: Work, reporter: Reporter
) -> RunReport:
    plan = run_plan(
        paths,
        batch_size=options.batch,
        **work.facts(),
        preprocessing=manifest.preprocessing.to_json(),
        backend=options.backend,
        draft=options.draft,
        top_k=options.top_k,
    )
    reporter.done(f"{plan['file']} ({plan['precision']}) on {plan['provider']}; {counted(len(paths), 'image')}")
    with reporter.steps("classifying") as move:
        return run_batches(
            options.output,
            paths,
            plan,
            work,
            labels=read_labels(options.bundle, manifest),
            top_k=options.top_k,
            score=score_kind(manifest),
            resume=options.resume,
            force=options.force,
            progress=lambda num_done: move(f"{num_done} of {counted(len(paths), 'image')}", num_done, len(paths)),
        )


def _tell(report: RunReport, output: Path, reporter: Reporter) -> None:
    if report.resumed_images == report.num_images:
        reporter.done("nothing was left to do: an earlier run had done all images")
    elif report.resumed_images:
        reporter.done(f"{counted(report.resumed_images, 'image')} had been done by an interrupted run")
    done = f"{counted(report.num_images - report.num_errors, 'image')} classified"
    reporter.done(f"{done}: {output}, report {report_path(output)}")
    if report.num_errors:
        shown = "".join(f"\n  {example}" for example in report.examples)
        more = report.num_errors - len(report.examples)
        reporter.warn(
            f"{report.num_errors} of {counted(report.num_images, 'file')} could not be read; their rows say why:{shown}"
            + (f"\n  and {more} more" if more else "")
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Classify many images with a bundle's model; one row for each, in the order of the input."
    parser.epilog = (
        "exit codes: 0 done, 1 done but some files could not be read (their rows say why; --skip-errors makes it "
        "0), 2 wrong use or bad input, 130 interrupted"
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        required=True,
        metavar="DIR|LIST",
        help="a folder, searched recursively, an image, or a file with one path a line (or NUL-separated, find "
        "-print0); may be given several times",
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FILE", help="results .parquet, .csv or .jsonl"
    )
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="classes in a row (default 5)")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="images in a batch (default 32)")
    parser.add_argument(
        "--provider", type=runtime, default=AUTO, metavar=runtime_words(), help="what runs it (default auto)"
    )
    parser.add_argument(
        "--precision", choices=LOWEST_FIRST, help="which file of the bundle (default: as fits the provider)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="what decodes (default pillow)")
    parser.add_argument(
        "--draft", action="store_true", help="decode huge JPEGs at a reduced size, a little differently"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="decoding threads; with --ray tasks at a time")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run, if there is one")
    parser.add_argument("--force", action="store_true", help="begin anew and replace the output")
    parser.add_argument("--skip-errors", action="store_true", help="exit with 0 although files could not be read")
    parser.add_argument(
        "--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help="run on Ray: a cluster's address, or one started here"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
