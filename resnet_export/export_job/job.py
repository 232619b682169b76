"""The main job: load, fold, trace, check, calibrate, quantize, compare, write the bundle, tell.

Nothing is written until everything has been computed; then the bundle appears whole.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import EngineCheckError, ExportError
from exporter.passes.pre_post_options import Finish
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.artifacts import Artifacts
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.context.run import ExportRun
from resnet_export.export_job.files.float16_files import ARM_ADDS_IN_FLOAT16, float16_file, int8_float16_file
from resnet_export.export_job.prepare import prepare
from resnet_export.export_job.report import ExportReport, report_from_content
from resnet_export.images.image_set import called_as_given
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.metrics.answer_kind import AnswerKind, kind_of_answers
from runtimes.metrics.parity import first_output

if TYPE_CHECKING:
    from exporter.tracing.check_export import CheckReport
    from exporter.tracing.export import ExportedModel


def run_export(options: ExportOptions, reporter: Reporter) -> ExportReport:
    """Run the main job.

    Raises:
        ExportError, CalibrationError, RuntimeAdapterError: Bad input; nothing was written.
        ExportCheckError: The export does not answer like PyTorch, or a budget cannot hold; nothing was written.
    """
    with called_as_given(reporter, options.calib, options.val):
        return _run(options, reporter)


def _run(options: ExportOptions, reporter: Reporter) -> ExportReport:
    run = prepare(options, reporter)
    artifacts = _export(run)

    from resnet_export.export_job.measure import measure
    from resnet_export.export_job.write_bundle import write_bundle

    content = write_bundle(run, artifacts, measure(run, artifacts))
    if options.engine:
        reporter.done(f"bundle written: {options.folder}/; it stays, whatever becomes of the engine")
        content["engine"] = _build_engine(run)
    return report_from_content(content)


def _build_engine(run: ExportRun) -> dict[str, Any]:
    """Build the engine of the bundle just written, unless a warning said not to deploy its file; the bundle stays."""
    from exporter.engines.build_options import BuildOptions
    from resnet_export.build_job.build_step import EngineRequest, engine_report, have_engine
    from resnet_export.export_job.write_bundle import next_command

    options, doubted = run.options, run.reporter.doubted
    if (file := MODEL_FILES[options.precisions[0]]) in doubted:
        raise EngineCheckError(
            f"--engine: not built, because a warning above says not to deploy {file}; next: "
            f"{next_command(options, doubted)}"
        )
    flavor = "rtx" if options.rtx else "tensorrt"
    request = EngineRequest(options.folder, options.precisions[0], flavor, BuildOptions(batch=options.batch))
    return engine_report(have_engine(request, run.reporter))


def _export(run: ExportRun) -> Artifacts:
    """Compute every file of the bundle, and the check that lets them be written."""
    from exporter.tracing.export import ExportConfig, export_loaded
    from resnet_export.export_job.files.dla_files import dla_files
    from resnet_export.export_job.files.finish_files import finish_files
    from resnet_export.export_job.quantize import quantize_images
    from resnet_export.export_job.refused_forms import tell_refused_forms

    options, loaded, golden, reporter = run.options, run.loaded, run.golden, run.reporter
    with reporter.working("folding BatchNorm, tracing, writing ONNX"):
        exported = export_loaded(loaded, ExportConfig(options.target, options.opset))
    _tell_folding(exported, reporter)
    tell_refused_forms(exported.onnx, options, reporter)
    check = _check(run, exported)
    answers = _answers(run, exported) if loaded.gives_logits else AnswerKind.FEATURES
    float16 = float16_file(exported, golden, reporter) if options.fp16 else None
    if options.fp16 and options.target.name == "onnxruntime":
        reporter.warn(ARM_ADDS_IN_FLOAT16)
    int8, budget, kept = quantize_images(run, exported) if options.int8 else (None, None, None)
    int8_float16 = None
    if int8 is not None and options.has_int8_float16:
        int8_float16 = int8_float16_file(int8.quantized.model, exported.onnx, golden, reporter)
    finish = Finish(options.input_type == "uint8", options.softmax, options.topk)
    artifacts = Artifacts(exported, check, float16, int8, int8_float16, finish, budget, kept, answers=answers)
    artifacts = replace(artifacts, hard=_on_hard_frames(run, artifacts))
    artifacts = replace(artifacts, finished=finish_files(run, artifacts))
    return replace(artifacts, dla=dla_files(run, artifacts)) if options.dla else artifacts


def _check(run: ExportRun, exported: ExportedModel) -> CheckReport:
    """Compare the FP32 file with the network it is of; refuse a difference that is not rounding to float32."""
    from exporter.tracing.check_export import all_tensors, check_against_pytorch, check_declared_shapes
    from exporter.tracing.check_hard_frames import hard_frames
    from exporter.tracing.check_rows import check_rows_are_independent
    from exporter.tracing.float32_rounding import exact_outputs
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.pytorch import TorchRuntime

    loaded, golden, reporter = run.loaded, run.golden, run.reporter
    name, model = loaded.reference_name, exported.onnx
    with reporter.working(f"comparing with {name}"):
        exact = None if loaded.source == "onnx" else partial(exact_outputs, loaded.module)
        tensors = partial(all_tensors, model, open_runtime=OrtRuntime)
        again = TorchRuntime(loaded.module, output_names=loaded.outputs)  # nothing is remembered
        check_rows_are_independent(again, golden, tensors=tensors, reference_name=name, exact=exact)
        check_declared_shapes(model, golden[:2], open_runtime=OrtRuntime)
        check = check_against_pytorch(
            run.reference,
            model,
            golden,
            open_runtime=OrtRuntime,
            reference_name=name,
            exact=exact,
            hard={**hard_frames(loaded.preprocessing), "an input of zeros": np.zeros_like(golden[:1])},
        )
    _tell_check(run, exported, check)
    return check


def _tell_check(run: ExportRun, exported: ExportedModel, check: CheckReport) -> None:
    from exporter.tracing.check_export import MAX_RELATIVE_DIFFERENCE, RUNS_AWAY

    name, reporter = run.loaded.reference_name, run.reporter
    for frame in check.nonfinite:
        reporter.warn(f"{name} itself gives NaN or Inf on {frame}; the files are not compared on it")
    if check.max_rounding is not None:
        reporter.warn(
            f"float32 rounds by more than {MAX_RELATIVE_DIFFERENCE:g} of the largest logit in this network: up to "
            f"{check.max_rounding:.2g} from {name} in float64, whoever computes it; the file is no further off"
            + (f": {RUNS_AWAY}" if _is_chance(check) else "")
        )
    verb = "is, within float32's rounding, as far from float64 as" if _is_chance(check) else "equals"
    reporter.done(
        f"ONNX opset {exported.config.resolved_opset} {verb} {name}: largest |difference| {check.max_abs_diff:.2g} "
        f"at largest |{'logit' if run.loaded.gives_logits else 'feature'}| {check.max_abs_logit:.3g}, batch "
        f"{', '.join(map(str, check.batch_sizes))}"
    )


def _is_chance(check: CheckReport) -> bool:
    """Tell whether float32's rounding decides the answers: then nothing can be equal."""
    from exporter.tracing.check_export import CHANCE

    return check.max_rounding is not None and check.max_rounding > CHANCE * check.max_abs_logit


def _answers(run: ExportRun, exported: ExportedModel) -> AnswerKind:
    """Return what the network gives, by its graph or its answers; tell what is no logits, refuse a second Softmax."""
    from exporter.graph.output_kind import output_kind

    kind = output_kind(exported.onnx)
    if kind is AnswerKind.LOGITS:
        kind = kind_of_answers(first_output(run.reference, run.golden)) or kind
    if run.options.softmax and not kind.needs_softmax:
        raise ExportError(f"the network gives {kind.value} already; leave --softmax out")
    if kind is not AnswerKind.LOGITS:
        run.reporter.done(f"the network gives {kind.value}, and they are taken as such: {_END_OF_KIND[kind.value]}")
    return kind


_END_OF_KIND = {
    "probabilities": "no Softmax is added, and the comparison is of probabilities",
    "log-probabilities": "the probability is their power of e",
    "independent": "each class is yes or no for itself (Sigmoid), and no Softmax is added",
}


def _on_hard_frames(run: ExportRun, artifacts: Artifacts) -> dict[str, Any]:
    """Run every file on black, white and other hard frames; return what `report.json` says of it."""
    from exporter.tracing.check_hard_frames import check_hard_frames
    from runtimes.ort.adapter import OrtRuntime

    files, preprocessing = artifacts.model_files(), run.loaded.preprocessing
    open_runtime = partial(OrtRuntime, exact_qdq=run.options.target.exact_int8_simulation)
    found = check_hard_frames(
        run.reference, files, preprocessing, run.golden, open_runtime=open_runtime, warn=run.reporter.warn
    )
    shares = [
        f"{name.removeprefix('ONNX ')} {max(found[file].values()):.2g}"
        for file, (name, _) in files.items()
        if found[file]
    ]
    if shares:
        told = "black, white, one-colored and noise frames: all files finite; largest |difference| "
        run.reporter.done(told + ", ".join(shares))
    return dict(found)


def _tell_folding(exported: ExportedModel, reporter: Reporter) -> None:
    report = exported.folding
    total = len(report.folded) + len(report.kept)
    reporter.done(f"{len(report.folded)} of {total} BatchNorms folded in float64" if total else "no BatchNorm to fold")
    alike: dict[str, list[tuple[str, str]]] = {}
    for batchnorm, reason in report.kept:
        alike.setdefault(re.sub(r"'[^']*'", "", reason), []).append((batchnorm, reason))  # but for names in the reason
    for (path, reason), *others in alike.values():
        named = f"{len(others) + 1} BatchNorms, first {path}, are" if others else f"{path} is"
        reporter.done(f"{named} not folded but kept as one affine operation each: {reason}")
