"""Judge a bundle, an ONNX file or an engine: does it still answer like its reference, and if not, what broke?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from calibration.observers.sample_images import drawn_in_words
from exporter.errors import ExportError
from exporter.preprocessing.options import PreprocessingOptions
from resnet_export.console.reporter import Reporter
from resnet_export.images.image_set import called_as_given, warn_of_files_passed_over
from resnet_export.images.prepared import warn_of_other_scale
from resnet_export.verify_job import compare
from resnet_export.verify_job.attribution import attribution
from resnet_export.verify_job.bisect import enter_breaks, find_breaks
from resnet_export.verify_job.bundle_checks import bundle_checks
from resnet_export.verify_job.hard_frames import judge_hard_frames
from resnet_export.verify_job.options import VerifyOptions
from resnet_export.verify_job.plain_sessions import judge_plain_sessions
from resnet_export.verify_job.setting import STORED, setting
from resnet_export.verify_job.sides import Reference, as_taken, load_reference, logits_of, streams_for
from resnet_export.verify_job.subject import TORCH, Subject, read_subject
from runtimes.metrics.answer_kind import AnswerKind, kind_in, kind_of_answers
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Runtime
from runtimes.side_by_side import ONE_STREAM, Streams
from runtimes.verification.baseline import compare_baseline, load_baseline
from runtimes.verification.gate_options import read_gates
from runtimes.verification.gates import GateResult
from runtimes.verification.report import FileReport, build_report, with_baseline


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One run: what is verified, against whom, on which images."""

    options: VerifyOptions
    subject: Subject
    reference: Reference | None
    reporter: Reporter
    tested: Reference | None = None

    @property
    def against(self) -> bool:
        """Whether a model of --against is trusted."""
        return self.options.against is not None and self.tested is None

    @property
    def streams(self) -> Streams:
        """How images are shared out over the cores; a PyTorch model on trial takes all for each batch."""
        return ONE_STREAM if self.tested is not None else streams_for(self.subject.provider)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared for the files: as they say, else as the reference does."""
        if self.subject.preprocessing is not None:
            return self.subject.preprocessing
        return None if self.reference is None else self.reference.preprocessing


def run_verify(options: VerifyOptions, reporter: Reporter) -> dict[str, Any]:
    """Judge; return the report, see `runtimes.verification.report`.

    Raises:
        ExportError, RuntimeAdapterError: If something is missing, damaged, or does not open.
    """
    with called_as_given(reporter, options.val):
        warn_of_files_passed_over(reporter, options.val)
        return _run(options, reporter)


def _run(options: VerifyOptions, reporter: Reporter) -> dict[str, Any]:
    choice = read_gates(options.gates)
    subject = read_subject(options.subject, options.precision, provider=options.provider)
    choice.gates_of_files([candidate.precision for candidate in subject.candidates])  # wrong use is told before work
    job = _loaded_job(options, subject, reporter)
    _tell_subject(job)
    with ExitStack() as stack:
        trusted = None
        if job.reference is not None and _needs_reference(job):
            trusted = stack.enter_context(job.reference.open(subject, job.streams))
        job = _with_comparable_answers(job, trusted)
        if job.tested is not None:
            opened = compare.torch_side(stack.enter_context(job.tested.open(job.subject, job.streams)))
        else:
            opened = compare.open_all(job.subject, stack, job.streams)
        compared = _compare_stored(job, trusted, opened)
        validation = _validation(job, trusted)
        checks = bundle_checks(subject, job.reference, trusted, against=job.against, streams=job.streams)
        with _bisecting(job, checks, validation) as breaks:
            compared += _compare_validation(job, trusted, opened, validation)
        files = compare.file_reports(opened, compared, choice)
        judge_hard_frames(subject, opened, files)
        plain_causes = judge_plain_sessions(subject, opened, compared, files, reporter)
    causes = enter_breaks(breaks(), files) if options.bisect else []
    if checks:
        files.insert(0, FileReport("bundle", gates=list(checks)))
    losses = attribution(subject, opened, compared, against=job.against)
    told = setting(subject, job.reference, compared, validation, against=job.against)
    report = build_report(
        told, files, attribution=losses, causes=_causes(files, [*plain_causes, *causes]), warnings=reporter.warnings
    )
    if options.baseline is None:
        return report
    return with_baseline(report, compare_baseline(report, load_baseline(options.baseline), options.baseline))


def _loaded_job(options: VerifyOptions, subject: Subject, reporter: Reporter) -> Job:
    against = (options.against, options.weights, options.num_classes, options.preprocessing)
    with reporter.working("loading"):
        reference = load_reference(subject, *against)
    if options.provider != TORCH:
        return Job(options, subject, reference, reporter)
    # The model of --against is on trial, the bundle is trusted.
    trusted = load_reference(subject, None, "", None, PreprocessingOptions())
    return Job(options, subject, trusted, reporter, tested=reference)


def _needs_reference(job: Job) -> bool:
    """Tell whether stored answers are not enough; without need a device needs no second runtime to judge an engine."""
    asked = job.options
    return job.subject.golden is None or job.against or asked.val is not None or asked.bisect


def _with_comparable_answers(job: Job, trusted: Runtime | None) -> Job:
    """Return the job whose files give what the model of --against gives: logits, or probabilities.

    Of a file that ends in a Softmax, and lies in no bundle, the Softmax is left off where the model gives logits.
    """
    if not job.against or trusted is None or job.reference is None:
        return job
    from exporter.models.check_images import load_check_images

    prepared = job.reference.preprocessing
    given = kind_of_answers(logits_of(trusted, as_taken(trusted, load_check_images(prepared)[:4], prepared)))
    subject, gives = job.subject, given or AnswerKind.LOGITS
    if subject.ends_in_softmax and gives is AnswerKind.LOGITS:
        return replace(job, subject=replace(subject, finish=replace(subject.finish, softmax=True)))
    own = _kind(job)
    if own is not None and own != gives and AnswerKind.PROBABILITIES in (own, gives):
        raise ExportError(
            f"{subject.path} gives {own.value}, {job.reference.name} {gives.value}; compare with the model that the "
            "bundle was made of"
        )
    return job


def _compare_stored(job: Job, trusted: Runtime | None, opened: compare.Opened) -> list[compare.Compared]:
    """Run the files over the golden inputs; without these and without --val, over the package's photographs."""
    subject, reference = job.subject, job.reference
    if subject.golden is not None:
        return [compare.compare(compare.golden_set(subject.golden, STORED), opened, kind=_kind(job))]
    if reference is None or trusted is None or job.preprocessing is None or job.options.val is not None:
        return []
    return [compare.compare(compare.photograph_set(reference, job.preprocessing, trusted), opened, kind=_kind(job))]


def _kind(job: Job) -> AnswerKind | None:
    return None if job.subject.manifest is None else kind_in(job.subject.manifest.model)


def _validation(job: Job, trusted: Runtime | None) -> compare.Validation | None:
    """Return the images of --val; None where there are none, or no reference to answer for them."""
    if job.reference is None or trusted is None or job.preprocessing is None or job.options.val is None:
        return None
    warn_of_other_scale(job.options.val, job.preprocessing, job.reporter)
    asked, num_classes = job.options, _num_classes(job, trusted)
    validation = compare.read_validation(
        job.options.val, job.subject.labels, num_classes, num_val=asked.num_val, given=asked.val_labels
    )
    job.reporter.done(
        f"{drawn_in_words(len(validation.paths), validation.num_images, validation.shown)}. "
        + ("No class folders: no accuracy, agreement only." if validation.classes is None else validation.classes.how)
    )
    return validation


@contextmanager
def _bisecting(
    job: Job, checks: Sequence[GateResult], validation: compare.Validation | None
) -> Iterator[Callable[[], dict[str, dict[str, Any]]]]:
    """Give what returns each file's bisection, which runs beside what the context does with validation images.

    A PyTorch model is exported for it, and computes in the context; there it runs when asked for.
    """
    find = partial(find_breaks, job.subject, job.reference, checks, job.preprocessing, validation, against=job.against)
    if not job.options.bisect or job.against or validation is None:
        yield find
        return
    with ThreadPoolExecutor(1, thread_name_prefix="bisect") as executor:
        yield executor.submit(find).result


def _compare_validation(
    job: Job, trusted: Runtime | None, opened: compare.Opened, validation: compare.Validation | None
) -> list[compare.Compared]:
    reference = job.reference
    if validation is None or reference is None or trusted is None or job.preprocessing is None:
        return []
    images = compare.validation_set(validation, reference, job.preprocessing, trusted, job.reporter)
    itself = {
        one.candidate.name
        for one in opened.candidates
        if not job.against and one.candidate.path == reference.file and job.subject.provider == "cpu"
    }
    return [compare.compare(images, opened, leave_out=frozenset(itself), kind=_kind(job))]


def _num_classes(job: Job, trusted: Runtime) -> int:
    if job.subject.golden is not None:
        return int(job.subject.golden.logits.shape[1])
    if job.reference is not None and job.reference.loaded is not None:
        return job.reference.loaded.num_classes
    from exporter.models.check_images import load_check_images

    assert job.preprocessing is not None
    return int(logits_of(trusted, load_check_images(job.preprocessing)[:1]).shape[1])


def _causes(files: Sequence[FileReport], found: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return what explains a failure: the checks of the bundle that failed, then what --bisect found."""
    checks = [
        {"file": file.name, "sentence": gate.sentence}
        for file in files
        for gate in file.gates
        if gate.on == "file" and gate.verdict.value == "fail" and gate.name != "blocks"
    ]
    return [*checks, *found]


def _tell_subject(job: Job) -> None:
    subject = job.subject
    names = ", ".join(candidate.name for candidate in subject.candidates)
    whole = f"{len(subject.manifest.files)} files as the manifest says; " if subject.manifest is not None else ""
    job.reporter.done(f"{subject.path}: {whole}judging {names}")
    if subject.finish.changes_output:
        job.reporter.warn(
            "the files end in a softmax or the best classes; the logits before that are compared, the end itself is "
            "not (the export checked it)"
        )
    if subject.preprocessing is None and job.reference is not None:
        job.reporter.warn(
            f"{subject.path} does not say how its images are prepared: as for {job.reference.name} is assumed"
        )
