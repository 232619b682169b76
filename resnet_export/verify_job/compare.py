"""Run both sides over the golden inputs and the validation images, and judge every file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from calibration.observers.sample_images import drawn_in_words, proportionally_ordered
from exporter.errors import ExportError
from exporter.known_bad import OLD_ONNXRUNTIME, installed_versions
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.choose_images import MAX_BAD_FRACTION
from resnet_export.images.class_index import ClassIndex, class_indices
from resnet_export.images.image_set import ImageSource
from resnet_export.images.stream import batch_size_for
from resnet_export.verify_job.sides import OpenCandidate, Reference, as_taken, logits_of, open_candidate
from resnet_export.verify_job.subject import Candidate, Golden, Subject
from runtimes.counted import counted
from runtimes.errors import MissingDependencyError
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.preprocessing.image_batches import image_batches
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Array, Runtime
from runtimes.side_by_side import ONE_STREAM, Streams, in_order
from runtimes.verification.gate_options import GateChoice
from runtimes.verification.gates import Gate, GateResult, Verdict, judge
from runtimes.verification.report import FileComparison, FileReport


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceBatch:
    """Images with the trusted side's answers.

    Attributes:
        names: Name of each image.
        labels: Class of each, or None.
        logits: Gives the reference's, [n, num_classes]; for validation images they are computed then.
        inputs: The images as the candidates' preprocessing makes them: normalized, or already as the files take them.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    logits: Callable[[], Array]
    inputs: Array


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images to compare on.

    Attributes:
        on: "golden", "val" or "photographs".
        reference: Who is trusted on them, in words.
        preprocessing: What `inputs` were normalized with; None where they are as the files take them.
        batches: The images; once.
    """

    on: str
    words: str
    reference: str
    preprocessing: Preprocessing | None
    batches: Iterable[ReferenceBatch]
    labelled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """Every file to judge, open, and for an engine also the ONNX file it was built from; and how batches are run."""

    candidates: tuple[OpenCandidate, ...]
    origins: dict[str, OpenCandidate] = field(default_factory=dict)
    streams: Streams = ONE_STREAM


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Comparisons on one set of images: file name to comparison; and, for engines, ONNX beside reference and engine."""

    images: ImageSet
    found: dict[str, LogitComparison]
    origins: dict[str, LogitComparison]
    engine_losses: dict[str, LogitComparison]


def open_all(subject: Subject, stack: ExitStack, streams: Streams = ONE_STREAM) -> Opened:
    """Open every file until `stack` is left.

    Raises:
        RuntimeAdapterError, ExportError: If one does not open; nothing is judged then.
    """
    opened = []
    origins = {}
    for candidate in subject.candidates:
        found = open_candidate(candidate, subject, subject.provider, streams)
        stack.callback(found.runtime.close)
        opened.append(found)
        if candidate.built_from is not None:
            source = replace(candidate, path=candidate.built_from, is_engine=False, built_from=None)
            try:
                origin = open_candidate(source, subject, "cpu", streams)
            except MissingDependencyError:  # an engine can be judged without ONNX Runtime; the attribution says so
                continue
            stack.callback(origin.runtime.close)
            origins[candidate.name] = origin
    return Opened(tuple(opened), origins, streams)


def golden_set(golden: Golden, reference: str) -> ImageSet:
    """Return the bundle's stored inputs with PyTorch's stored answers."""
    count = len(golden.inputs)
    names = tuple(f"golden[{place}]" for place in range(count))
    batch = ReferenceBatch(names, None, lambda: golden.logits, golden.inputs)
    return ImageSet("golden", f"{count} golden inputs stored in the bundle", reference, None, [batch])


def photograph_set(reference: Reference, preprocessing: Preprocessing, runtime: Runtime) -> ImageSet:
    """Return the package's own photographs: for a file without golden inputs, where no --val was given."""
    from exporter.models.check_images import load_check_images

    trusted = load_check_images(reference.preprocessing)
    inputs = load_check_images(preprocessing)
    names = tuple(f"photograph[{place}]" for place in range(len(inputs)))
    logits = _logits_on(runtime, trusted, reference.preprocessing, ONE_STREAM)
    words = f"{len(names)} views of four photographs that ship with resnet-export"
    batch = ReferenceBatch(names, None, lambda: logits, inputs)
    return ImageSet("photographs", words, reference.name, preprocessing, [batch])


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """The images of --val: those drawn, of `num_images`, and their classes where they lie in class folders."""

    root: Path
    shown: str
    paths: tuple[Path, ...]
    classes: ClassIndex | None
    num_images: int


def read_validation(
    source: ImageSource,
    labels: tuple[str, ...] | None,
    num_classes: int,
    num_val: int | None,
    given: Sequence[int] | None,
) -> Validation:
    """List the images of --val and match their class folders, if they lie in any.

    Raises:
        ImageFolderError: If there are none, or their folders or indices do not match the classes.
    """
    root, paths = source.root, source.paths()
    chosen = tuple(proportionally_ordered(root, paths)[:num_val])
    return Validation(root, source.shown, chosen, class_indices(source, chosen, labels, num_classes, given), len(paths))


def validation_set(
    validation: Validation, reference: Reference, preprocessing: Preprocessing, runtime: Runtime, reporter: Reporter
) -> ImageSet:
    """Return the validation images with the reference's answers; each side's images are prepared as it says."""
    words = drawn_in_words(len(validation.paths), validation.num_images, validation.shown)
    batches = _validation_batches(validation, reference, preprocessing, runtime, reporter)
    return ImageSet("val", words, reference.name, preprocessing, batches, labelled=validation.classes is not None)


def _validation_batches(
    validation: Validation, reference: Reference, preprocessing: Preprocessing, runtime: Runtime, reporter: Reporter
) -> Iterator[ReferenceBatch]:
    errors: list[str] = []
    read = partial(image_batches, validation.paths, max_bad_fraction=MAX_BAD_FRACTION)
    size = min(batch_size_for(preprocessing), batch_size_for(reference.preprocessing))
    theirs = read(preprocessing, batch_size=size, on_error=errors.append)
    # One stream where both sides prepare alike: the same array goes to both.
    ours = None if reference.preprocessing == preprocessing else read(reference.preprocessing, batch_size=size)
    for batch in reporter.track("comparing", theirs, total=len(validation.paths), sizes=lambda one: len(one.paths)):
        trusted = batch if ours is None else next(ours, None)
        if trusted is None or trusted.paths != batch.paths:
            raise ExportError(
                f"{validation.shown}: the two sides could not read the same images; remove those that fail"
            )
        names = tuple(path.relative_to(validation.root).as_posix() for path in batch.paths)
        labels = None if validation.classes is None else tuple(validation.classes.of[path] for path in batch.paths)
        logits = partial(_logits_on, runtime, trusted.images, reference.preprocessing, ONE_STREAM)
        if reference.loaded is not None:  # PyTorch splits an operator over the cores; one batch at a time
            logits = partial(lambda answers: answers, logits())
        yield ReferenceBatch(names, labels, logits, batch.images)
    if errors:
        named = "; ".join(errors[:5])
        reporter.warn(
            f"{len(errors)} of {counted(len(validation.paths), 'image')} could not be read, and left out: {named}"
        )


def compare(
    images: ImageSet, opened: Opened, *, leave_out: frozenset[str] = frozenset(), kind: AnswerKind | None = None
) -> Compared:
    """Run every file over one set of images, but those to leave out, which are the reference themselves."""
    judged = [one for one in opened.candidates if one.candidate.name not in leave_out]
    meters: dict[tuple[str, str], LogitMeter] = {}

    def meter(what: str, name: str, num_classes: int) -> LogitMeter:
        if (what, name) not in meters:
            meters[what, name] = LogitMeter(num_classes, labelled=images.labelled, kind=kind)
        return meters[what, name]

    for batch, trusted, answered in _all_answers(images, judged, opened):
        num_classes = trusted.shape[1]
        for one, (got, between) in zip(judged, answered, strict=True):
            name = one.candidate.name
            meter("found", name, num_classes).add(trusted, got, names=batch.names, labels=batch.labels)
            if between is not None:
                meter("origin", name, num_classes).add(trusted, between, names=batch.names, labels=batch.labels)
                meter("engine", name, num_classes).add(between, got, names=batch.names, labels=batch.labels)
    reports = {key: one.report() for key, one in meters.items()}
    sides = ("found", "origin", "engine")
    found, origins, losses = ({name: one for (what, name), one in reports.items() if what == side} for side in sides)
    return Compared(images, found, origins, losses)


def _all_answers(
    images: ImageSet, judged: Sequence[OpenCandidate], opened: Opened
) -> Iterator[tuple[ReferenceBatch, Array, list[tuple[Array, Array | None]]]]:
    """Yield every batch with the reference's answers and, by file, the file's and those of what it was built from.

    Many batches run side by side; of a single one the images do.
    """
    outer, inner = (ONE_STREAM, opened.streams) if isinstance(images.batches, list) else (opened.streams, ONE_STREAM)

    def answer(batch: ReferenceBatch) -> tuple[ReferenceBatch, Array, list[tuple[Array, Array | None]]]:
        trusted = batch.logits()
        found = []
        for one in judged:
            origin = opened.origins.get(one.candidate.name)
            got = _logits_on(one.runtime, batch.inputs, images.preprocessing, inner)
            between = None if origin is None else _logits_on(origin.runtime, batch.inputs, images.preprocessing, inner)
            for side, logits in ((one, got), (origin, between)):
                if side is not None and logits is not None:
                    _check_same_model(side.candidate, logits, trusted)
            found.append((got, between))
        return batch, trusted, found

    return in_order((partial(answer, batch) for batch in images.batches), outer)


def _logits_on(runtime: Runtime, inputs: Array, preprocessing: Preprocessing | None, streams: Streams) -> Array:
    taken = inputs if preprocessing is None else as_taken(runtime, inputs, preprocessing)
    return logits_of(runtime, taken, streams)


def _check_same_model(candidate: Candidate, got: Array, trusted: Array) -> None:
    if got.shape != trusted.shape:
        raise ExportError(
            f"{candidate.path} gives {got.shape[1]} classes, the reference {trusted.shape[1]}; they are not the same "
            "model"
        )


def file_reports(opened: Opened, compared: Sequence[Compared], choice: GateChoice) -> list[FileReport]:
    """Return the entry of every file: its comparisons and what its gates say of them."""
    reports = []
    for one in opened.candidates:
        candidate = one.candidate
        report = FileReport(
            candidate.name, candidate.precision, one.inference_library, one.provider, one.arithmetic, candidate.sha256
        )
        gates = choice.gates_for(candidate.precision)
        for part in compared:
            if (found := part.found.get(candidate.name)) is not None:
                images = part.images
                report.comparisons.append(FileComparison(images.on, images.words, images.reference, found))
                # Shares that were asked for are asked of --val where it is there, not of 16 golden inputs too.
                asked = images.on == "val" or len(compared) == 1
                here = gates if asked else [replace(gate, asked=False) for gate in gates]
                report.gates.extend(_judged(one, found, here, images.on))
        reports.append(report)
    return reports


def _judged(one: OpenCandidate, found: LogitComparison, gates: Sequence[Gate], on: str) -> Sequence[GateResult]:
    """Judge a comparison, unless the library that computed it is known to compute this kind of file wrongly."""
    results = judge(found, gates, on=on)
    versions = installed_versions()
    if (
        one.inference_library != "onnxruntime"
        or one.candidate.precision != "int8-fp16"
        or not OLD_ONNXRUNTIME.applies(versions)
    ):
        return results
    have = versions.get("onnxruntime-gpu") or versions.get("onnxruntime")
    why = f"not judged by onnxruntime {have}: {OLD_ONNXRUNTIME.consequence}; judge this file where 1.30 or newer is"
    verdict = {False: Verdict.SKIPPED, True: Verdict.INCONCLUSIVE}
    return [
        replace(result, verdict=verdict[gate.asked], sentence=f"{result.sentence}; {why}")
        for gate, result in zip(gates, results, strict=True)
    ]


def torch_side(runtime: Runtime) -> Opened:
    """Return a PyTorch model as the tested side: does it still give the bundle's answers?"""
    return Opened((OpenCandidate(Candidate(Path("PyTorch"), "fp32", False, True, ""), runtime, "torch", None, None),))
