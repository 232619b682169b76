"""The comparison: every file against PyTorch on the same images, one pass, and each file's latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import ExportCheckError
from resnet_export.export_job.context.remembered_answers import RememberedAnswers
from resnet_export.export_job.context.run import ExportRun
from runtimes.bundle.file_names import DLA_FILES, MODEL_FILES
from runtimes.counted import counted
from runtimes.inference.model_in_memory import OtherRuntime
from runtimes.metrics.latency import Latency, measure_latency
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.metrics.tensor_meter import TensorMeter, TensorParity
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.protocol import Runtime, outputs_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.models.loaded_model import LoadedModel
    from resnet_export.console.reporter import Reporter
    from resnet_export.export_job.context.artifacts import Artifacts

POOR_AGREEMENT = 0.9
"""Below this share of equal answers the run warns. Not a gate: networks of random weights get there too."""

SATURATING_ROW = "INT8 default"
"""Target onnxruntime on a CPU without VNNI: the INT8 file as a session without options runs it."""

PLAIN_SESSION = "plain session"
"""Behind the name of a file for TensorRT: as any ONNX Runtime session without options runs it."""

DLA_ROW = "INT8 for DLA (simulated)"
"""With `--dla`: every tensor in INT8, computed by ONNX Runtime as implicit quantization computes it."""


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One line of the table.

    Attributes:
        name: "PyTorch FP32", "ONNX INT8", ...
        file: File in the bundle, or None for PyTorch.
        parity: Comparison with PyTorch; None when no image was at hand.
        latency: One image through ONNX Runtime on this machine's CPU; None for PyTorch.
        features: With `--features`, instead of `parity`: output's name to comparison.
        is_plain: Whether it is a second row of its file, as a plain session runs it.
        provider: What computed it, as the runtime calls it.
        is_elsewhere: Whether it is a further row of its file, of a runtime named by `--measure-on`.
    """

    name: str
    file: str | None
    parity: LogitComparison | None
    latency: Latency | None
    features: Mapping[str, TensorParity] | None = None
    is_plain: bool = False
    provider: str = "CPUExecutionProvider"
    is_elsewhere: bool = False

    @property
    def is_as_written(self) -> bool:
        """Whether it is the only or first row of its file, or the reference's."""
        return not self.is_plain and not self.is_elsewhere and self.name != SATURATING_ROW


def reference_row(loaded: LoadedModel) -> str:
    """Return the name of the row that everything is compared with."""
    return "original FP32" if loaded.source == "onnx" else f"{loaded.reference_name} FP32"


def measure(run: ExportRun, artifacts: Artifacts) -> list[MeasuredRow]:
    """Return one row for the reference and one per file; a second one where a plain session computes otherwise.

    Raises:
        ExportCheckError: If a plain session answers otherwise than the file says.
    """
    images, loaded, reporter = run.images, run.loaded, run.reporter
    parity: dict[str, LogitComparison] = {}
    features: dict[str, dict[str, TensorParity]] = {}
    with ExitStack() as stack:
        candidates = _opened(run, artifacts, stack) if images.measured else {}
        _check_plain_sessions(run, artifacts, candidates)
        if images.measured and not loaded.gives_logits:
            features = _features(run, candidates)
        elif images.measured:
            parity = _parity(run, candidates)
    latency = _latency(run, artifacts)
    rows = [MeasuredRow(reference_row(loaded), None, parity.get(reference_row(loaded)), None)]
    for file, (name, _) in artifacts.model_files().items():
        rows.append(MeasuredRow(name, file, parity.get(name), latency[name], features.get(name)))
        if _is_rewritten(run, file):
            plain = f"{name}, {PLAIN_SESSION}"
            rows.append(MeasuredRow(plain, file, parity.get(plain), latency[name], features.get(plain), is_plain=True))
    if artifacts.dla is not None and artifacts.dla.simulation is not None:
        rows.append(MeasuredRow(DLA_ROW, DLA_FILES["int8"], parity.get(DLA_ROW), None, features.get(DLA_ROW)))
    for name, other in _elsewhere(run, artifacts).items():
        found = parity.get(name), latency[name], features.get(name)
        rows.append(MeasuredRow(name, other.file, *found, provider=other.title, is_elsewhere=True))
    if SATURATING_ROW in latency:
        rows.append(
            MeasuredRow(SATURATING_ROW, MODEL_FILES["int8"], parity.get(SATURATING_ROW), latency[SATURATING_ROW])
        )
    if not images.measured:
        calib = run.options.calib
        why = "no images were given" if calib is None else f"{calib.shown} has too few images to hold any of them out"
        remedy = "--val DIR" if calib else "--calib DIR or --val DIR"
        what = "so nothing but equality on the package's own photographs was measured"
        reporter.warn(f"{why}, {what}; {remedy} fills the table")
    warn_of_poor_agreement(rows, loaded.reference_name, reporter)
    return rows


def warn_of_poor_agreement(rows: Iterable[MeasuredRow], reference_name: str, reporter: Reporter) -> None:
    """Tell which rows answer otherwise than the reference on more images than `POOR_AGREEMENT` allows."""
    for row in rows:
        if row.parity is not None and row.parity.agreement < POOR_AGREEMENT:
            reporter.warn(
                f"{row.name} agrees with {reference_name} on {row.parity.agreement:.1%} of "
                f"{counted(row.parity.num_images, 'image')} only; do not deploy it before you know why",
                doubted=[row.file] if row.file and row.is_as_written else [],
            )


def _elsewhere(run: ExportRun, artifacts: Artifacts) -> dict[str, OtherRuntime]:
    """Return, by row name, what `--measure-on` asks for."""
    names = {file: name for file, (name, _) in artifacts.model_files().items()}
    return {f"{names[other.file]}, {other.title}": other for other in run.options.other_runtimes}


def _is_rewritten(run: ExportRun, file: str) -> bool:
    """Tell whether a file is measured as it is written, which is not how a plain session runs it."""
    return run.options.target.exact_int8_simulation and ".int8." in file


def _check_plain_sessions(run: ExportRun, artifacts: Artifacts, candidates: Mapping[str, Runtime]) -> None:
    """Compare a plain session on the golden inputs with what INT8 files say; refuse more than the file's own error."""
    from runtimes.ort.plain_session import compare_plain_session

    quantized = [(file, *named) for file, named in artifacts.model_files().items() if ".int8." in file]
    for file, name, model in run.reporter.track("opening plain sessions", quantized, total=len(quantized)):
        rows = (name, f"{name}, {PLAIN_SESSION}") if _is_rewritten(run, file) else ()
        known = [first_output(candidates[row], run.golden) for row in rows if row in candidates]
        found = compare_plain_session(model, run.golden, first_output(run.reference, run.golden), *known)
        if found.agrees:
            continue
        if not found.saturates:
            raise ExportCheckError(f"{file} answers otherwise than it says, {found.sentence}; nothing was written")
        run.reporter.warn(f"{file}: {found.sentence}")


def int8_kernels_note() -> str:
    """Return which of ONNX Runtime's INT8 kernels the INT8 row ran on, and what other sessions have to ask for."""
    key, value = PRECISE_OPTION
    if why := why_int8_saturates():
        return (
            f"{why}; the INT8 row ran on the exact ones, which OrtRuntime opens and other sessions get by "
            f"{key}={value}; the row {SATURATING_ROW!r} is a session without it"
        )
    return f"They are exact on this CPU; on x86 without VNNI set {key}={value}, as OrtRuntime does"


def _has_saturating_row(run: ExportRun, artifacts: Artifacts) -> bool:
    return artifacts.int8 is not None and not run.options.target.exact_int8_simulation and bool(why_int8_saturates())


def _parity(run: ExportRun, candidates: Mapping[str, Runtime]) -> dict[str, LogitComparison]:
    name_of_reference = reference_row(run.loaded)
    meters = {name: LogitMeter(strict=True) for name in (name_of_reference, *candidates)}
    for batch in run.batches("comparing", run.images.measured):
        labels = run.labels_of(batch)
        expected = first_output(run.reference, batch.images)
        meters[name_of_reference].add(expected, expected, labels=labels)
        for name, candidate in candidates.items():
            meters[name].add(expected, first_output(candidate, batch.images), labels=labels)
    return {name: meter.report() for name, meter in meters.items()}


def _features(run: ExportRun, candidates: Mapping[str, Runtime]) -> dict[str, dict[str, TensorParity]]:
    """Return row name to output name to comparison."""
    meters = {name: {output: TensorMeter() for output in run.loaded.outputs} for name in candidates}
    for batch in run.batches("comparing", run.images.measured):
        expected = outputs_of(run.reference, batch.images)
        for name, candidate in candidates.items():
            got = outputs_of(candidate, batch.images)
            for output, meter in meters[name].items():
                meter.add(expected[output], got[output])
    return {name: {output: meter.report() for output, meter in found.items()} for name, found in meters.items()}


def _opened(run: ExportRun, artifacts: Artifacts, stack: ExitStack) -> dict[str, Runtime]:
    """Open every file, by row name, until `stack` is left."""
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.ort.plain_session import PlainRuntime

    def opened(model: ModelProto, *, exact_qdq: bool) -> Runtime:
        return RememberedAnswers(stack.enter_context(OrtRuntime(model, exact_qdq=exact_qdq)))

    def in_plain_session(model: ModelProto) -> Runtime:
        return RememberedAnswers(stack.enter_context(PlainRuntime(model)))

    exact = run.options.target.exact_int8_simulation
    candidates = {name: opened(model, exact_qdq=exact) for name, model in artifacts.model_files().values()}
    for file, (name, model) in artifacts.model_files().items():
        if _is_rewritten(run, file):
            candidates[f"{name}, {PLAIN_SESSION}"] = in_plain_session(model)
    for name, other in _elsewhere(run, artifacts).items():
        elsewhere = other.open(artifacts.model_files()[other.file][1])
        candidates[name] = stack.enter_context(elsewhere.runtime)
        for warning in elsewhere.warnings:
            run.reporter.warn(f"{name}: {warning}")
    if artifacts.dla is not None and artifacts.dla.simulation is not None:
        candidates[DLA_ROW] = opened(artifacts.dla.simulation, exact_qdq=True)
    if artifacts.quantized is not None and _has_saturating_row(run, artifacts):
        candidates[SATURATING_ROW] = in_plain_session(artifacts.quantized.model)
    return candidates


def _latency(run: ExportRun, artifacts: Artifacts) -> dict[str, Latency]:
    """Time one image through each file, alone, on the CPU.

    Files for TensorRT are timed in a plain session, whose answers have a row of their own, not as they are written:
    nobody would deploy that.
    """
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.ort.plain_session import PlainRuntime

    result: dict[str, Latency] = {}
    finished = artifacts.finished
    names = {file: name for file, (name, _) in artifacts.model_files().items()}
    for file, model in run.reporter.track("timing", finished.items(), total=len(finished)):
        with PlainRuntime(model) if _is_rewritten(run, file) else OrtRuntime(model) as runtime:
            result[names[file]] = _time_one_image(runtime)
    for name, other in _elsewhere(run, artifacts).items():
        with other.open(finished[other.file]).runtime as runtime:
            result[name] = _time_one_image(runtime)
    if artifacts.quantized is not None and _has_saturating_row(run, artifacts):
        with PlainRuntime(finished[MODEL_FILES["int8"]]) as runtime:
            result[SATURATING_ROW] = _time_one_image(runtime)
    return result


def _time_one_image(runtime: Runtime) -> Latency:
    """Time one image: as many runs as half a second takes, ten at least."""
    ((name, spec),) = runtime.input_specs.items()
    image = {name: np.zeros([size or 1 for size in spec.shape], spec.dtype)}
    return measure_latency(lambda: runtime.run(image), budget_s=0.5)


def row_json(row: MeasuredRow, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return a row as `report.json` holds it."""
    content: dict[str, Any] = {"name": row.name, "file": row.file}
    content["parity"] = None if row.parity is None else row.parity.parity_json()
    if row.features is not None:
        content["features"] = {name: report.to_json() for name, report in row.features.items()}
    content["size_bytes"] = None if row.file is None else sizes[row.file]
    timed = {} if row.latency is None else {"provider": row.provider, "batch": 1, **asdict(row.latency)}
    return {**content, "latency": timed or None}
