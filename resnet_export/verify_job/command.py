"""`resnet-export verify BUNDLE|MODEL.onnx|ENGINE`: does it still answer like its reference, and if not, what broke?

Exit codes: 0 every gate passes; 1 one fails; 2 wrong use or bad input; 3 inconclusive: too few images for the claim.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from exporter.bundle.write_folder import TOOL_NAME
from exporter.models.loaded_model import DEFAULT_WEIGHTS
from exporter.models.preprocessing_options import PreprocessingOptions
from exporter.version import __version__
from resnet_export.console.option_types import interpolation, positive, resize, rgb, runtime_of_files
from resnet_export.console.terminal import Terminal
from resnet_export.verify_job.attribution import attribution
from resnet_export.verify_job.bisect import bisect_files
from resnet_export.verify_job.bundle_checks import bundle_checks
from resnet_export.verify_job.compare import (
    Compared,
    Opened,
    Validation,
    compare,
    file_reports,
    golden_set,
    open_all,
    photograph_set,
    read_validation,
    torch_side,
    validation_set,
)
from resnet_export.verify_job.sides import Reference, load_reference, logits_of
from resnet_export.verify_job.subject import PRECISIONS, TORCH, Subject, read_subject
from resnet_export.verify_job.write_reports import write_reports
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Runtime
from runtimes.verification.gate_options import read_gates
from runtimes.verification.html import check_libraries
from runtimes.verification.report import FileReport, Setting, build_report

LIBRARIES = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "tensorrt", "tensorrt-rtx")

STORED = "PyTorch's answers stored in the bundle"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One run: what is verified, against whom, on which images."""

    arguments: argparse.Namespace
    subject: Subject
    reference: Reference | None
    terminal: Terminal
    tested: Reference | None = None

    @property
    def against(self) -> bool:
        """Whether a model of --against is trusted."""
        return self.arguments.against is not None and self.tested is None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared for the files: as they say, else as the reference does."""
        if self.subject.preprocessing is not None:
            return self.subject.preprocessing
        return None if self.reference is None else self.reference.preprocessing


def run_verify(words: Sequence[str]) -> int:
    """Judge; print and write the report; return the exit code."""
    arguments = _parse(words)
    if arguments.html is not None:
        check_libraries()  # before the work
    choice = read_gates(arguments.gate)
    terminal = Terminal(quiet=arguments.quiet)
    subject = read_subject(arguments.subject, tuple(arguments.precision), provider=arguments.provider)
    options = PreprocessingOptions(
        arguments.input_size, arguments.resize, arguments.mean, arguments.std, arguments.interpolation
    )
    for candidate in subject.candidates:
        choice.gates_for(candidate.precision)  # gates that leave nothing to fail are wrong use, told before work
    with terminal.working("loading"):
        reference = load_reference(subject, arguments.against, arguments.weights, arguments.num_classes, options)
    tested = reference if arguments.provider == TORCH else None
    if tested is not None:  # the model of --against is on trial, the bundle is trusted
        reference = load_reference(subject, None, "", None, options)
    job = Job(arguments, subject, reference, terminal, tested)
    _tell_subject(job)
    with ExitStack() as stack:
        trusted = None
        if reference is not None and _needs_reference(job):
            trusted = stack.enter_context(reference.open(subject))
        opened = _open(job, stack)
        compared, validation = _compare(job, trusted, opened)
        files = file_reports(opened, compared, choice)
        checks = bundle_checks(subject, reference, trusted, against=job.against)
    if checks:
        files.insert(0, FileReport("bundle", gates=list(checks)))
    causes = (
        bisect_files(subject, reference, files, job.preprocessing, validation, against=job.against)
        if arguments.bisect
        else []
    )
    losses = attribution(subject, opened, compared, against=job.against)
    setting = _setting(job, compared, validation)
    report = build_report(setting, files, attribution=losses, causes=_causes(files, causes), warnings=terminal.warnings)
    return write_reports(report, arguments)


def _needs_reference(job: Job) -> bool:
    """Tell whether stored answers are not enough; without need a device needs no second runtime to judge an engine."""
    asked = job.arguments
    return job.subject.golden is None or job.against or asked.val is not None or asked.bisect


def _open(job: Job, stack: ExitStack) -> Opened:
    if job.tested is not None:
        return torch_side(stack.enter_context(job.tested.open(job.subject)))
    return open_all(job.subject, stack)


def _compare(job: Job, trusted: Runtime | None, opened: Opened) -> tuple[list[Compared], Validation | None]:
    """Run both sides over the golden inputs and over --val, or over the package's photographs."""
    subject, reference, terminal = job.subject, job.reference, job.terminal
    compared: list[Compared] = []
    if subject.golden is not None:
        compared.append(compare(golden_set(subject.golden, STORED), opened))
    if reference is None or trusted is None or job.preprocessing is None:
        return compared, None
    if job.arguments.val is None:
        if subject.golden is None:
            compared.append(compare(photograph_set(reference, job.preprocessing, trusted), opened))
        return compared, None
    num_classes = _num_classes(job, trusted)
    validation = read_validation(job.arguments.val, subject.labels, num_classes, job.arguments.num_val)
    terminal.done(
        f"{len(validation.paths)} validation images. "
        + ("No class folders: no accuracy, agreement only." if validation.classes is None else validation.classes.how)
    )
    images = validation_set(validation, reference, job.preprocessing, trusted, terminal)
    itself = {
        one.candidate.name
        for one in opened.candidates
        if not job.against and one.candidate.path == reference.file and job.subject.provider == "cpu"
    }
    compared.append(compare(images, opened, leave_out=frozenset(itself)))
    return compared, validation


def _num_classes(job: Job, trusted: Runtime) -> int:
    if job.subject.golden is not None:
        return int(job.subject.golden.logits.shape[1])
    if job.reference is not None and job.reference.loaded is not None:
        return job.reference.loaded.num_classes
    return _width(trusted, job.preprocessing)


def _width(trusted: Runtime, preprocessing: Preprocessing | None) -> int:
    from exporter.models.check_images import load_check_images

    assert preprocessing is not None
    return int(logits_of(trusted, load_check_images(preprocessing)[:1]).shape[1])


def _causes(files: Sequence[FileReport], found: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return what explains a failure: the checks of the bundle that failed, then what --bisect found."""
    checks = [
        {"file": file.name, "sentence": gate.sentence}
        for file in files
        for gate in file.gates
        if gate.on == "file" and gate.verdict.value == "fail" and gate.name != "blocks"
    ]
    return [*checks, *found]


def _setting(job: Job, compared: Sequence[Compared], validation: Validation | None) -> Setting:
    subject, reference = job.subject, job.reference
    golden = None
    if subject.golden is not None:
        golden = {"num_images": len(subject.golden.inputs), "source": "golden.npz, PyTorch's answers at export"}
    val = None
    if validation is not None:
        classes = validation.classes
        val = {
            "root": str(validation.root),
            "num_images": len(validation.paths),
            "labelled": classes is not None,
            "matched": None if classes is None else classes.how,
        }
    return Setting(
        tool={
            "name": TOOL_NAME,
            "version": __version__,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        environment=_environment(),
        subject=subject.to_json(),
        reference={
            "name": "PyTorch" if reference is None else reference.name,
            "statement": STORED if reference is None or not (val or job.against) else reference.statement,
        },
        images={"val": val, "golden": golden, "statement": _images_statement(compared, validation)},
        labels=subject.labels or (reference.loaded.labels if reference is not None and reference.loaded else None),
    )


def _images_statement(compared: Sequence[Compared], validation: Validation | None) -> str:
    words = " and ".join(part.images.words for part in compared)
    if validation is not None:
        return f"compared on {words}"
    kind = "golden inputs only" if compared and compared[0].images.on == "golden" else "photographs of the package only"
    return (
        f"compared on {words}: {kind}; they show that files compute the same, not how accurate they are. "
        "--val DIR compares on images of yours"
    )


def _environment() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _tell_subject(job: Job) -> None:
    subject = job.subject
    names = ", ".join(candidate.name for candidate in subject.candidates)
    if subject.manifest is not None:
        job.terminal.done(f"{subject.path}: {len(subject.manifest.files)} files as the manifest says; judging {names}")
    else:
        job.terminal.done(f"{subject.path}: judging {names}")
    if subject.finish.changes_output:
        job.terminal.warn(
            "the files end in a softmax or the best classes; the logits before that are compared, the end itself is "
            "not (the export checked it)"
        )
    if subject.preprocessing is None and job.reference is not None:
        job.terminal.warn(
            f"{subject.path} does not say how its images are prepared: as for {job.reference.name} is assumed"
        )


def _parse(words: Sequence[str]) -> Any:
    parser = _parser()
    arguments = parser.parse_args(words)
    subject: Path = arguments.subject
    alone = subject.suffix in (".onnx", ".engine", ".plan") and not (subject.parent / "manifest.json").is_file()
    if alone and arguments.against is None:
        parser.error(f"{subject} lies in no bundle, so nothing says how it has to answer: give --against MODEL")
    if arguments.provider == TORCH and arguments.against is None:
        parser.error("--provider torch tests a PyTorch model against the bundle: give it as --against MODEL")
    if arguments.provider == TORCH and (alone or arguments.bisect):
        parser.error("--provider torch compares with a bundle's stored answers, as a whole: give a bundle, no --bisect")
    if arguments.against is None and arguments.weights != DEFAULT_WEIGHTS:
        parser.error("--weights belongs to --against MODEL")
    if arguments.num_val is not None and arguments.val is None:
        parser.error("--num-val counts images of --val DIR")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-export verify",
        description=(
            "Judge a bundle's files, an ONNX file or a TensorRT engine against their reference: PyTorch's answers "
            "stored in the bundle, the bundle's own FP32 file on images of --val, or the model of --against."
        ),
        epilog="exit codes: 0 every gate passes, 1 one fails, 2 wrong use or bad input, 3 inconclusive",
        allow_abbrev=False,
    )
    parser.add_argument("subject", type=Path, metavar="BUNDLE|MODEL.onnx|ENGINE")
    _add_sides(parser)
    group = parser.add_argument_group("images and gates")
    group.add_argument("--val", type=Path, metavar="DIR", help="images to compare on; in class folders, also accuracy")
    group.add_argument("--num-val", type=positive, metavar="N", help="images used of it (default: all)")
    group.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="FILE|NAME=VALUE",
        help="threshold, such as agreement=0.98, int8.sqnr_db=25 or top1_drop_pp=off, or a TOML file of them; repeat",
    )
    group.add_argument("--baseline", type=Path, metavar="FILE", help="JSON report of an earlier run: what moved since")
    group.add_argument("--bisect", action="store_true", help="compare block by block and name the one that broke")
    group = parser.add_argument_group("output")
    for name, what in (
        ("json", "the whole report"),
        ("junit", "JUnit XML for test viewers"),
        ("markdown", "a summary, appended, as for $GITHUB_STEP_SUMMARY"),
        ("html", "a page to look at, in one file"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    group.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    return parser


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
    group.add_argument("--input-size", type=positive, metavar="N", help="of --against, where its weights do not say")
    group.add_argument("--resize", type=resize, metavar="N|HxW", help="likewise")
    group.add_argument("--mean", type=rgb, metavar="R,G,B", help="likewise")
    group.add_argument("--std", type=rgb, metavar="R,G,B", help="likewise")
    group.add_argument("--interpolation", type=interpolation, metavar="bilinear|...", help="likewise")
