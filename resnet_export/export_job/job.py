"""The main job: load, fold, trace, check, calibrate, quantize, compare, write the bundle, tell.

Cheap checks come first, so that a wrong folder is told before torch is imported. Nothing is written until everything
has been computed; then the bundle appears whole.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.bundle.write_folder import check_output
from exporter.errors import ExportError, NonFiniteTensorError
from exporter.models.load_model import load_any
from exporter.models.loaded_model import LoadedModel, check_labels
from exporter.models.model_names import check_model_name
from exporter.passes.pre_post_options import Finish
from exporter.preprocessing.options import assumed_resize
from exporter.target import check_opset
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.artifacts import Artifacts
from resnet_export.export_job.choose_images import ChosenImages, choose_images
from resnet_export.export_job.options import ExportOptions
from resnet_export.export_job.report import ExportReport, report_from_content
from resnet_export.export_job.run import ExportRun
from resnet_export.images.class_index import ClassIndex, class_indices, classes_from_labels
from resnet_export.images.image_set import ImageSource
from resnet_export.images.unusual_files import unusual_files
from runtimes.bundle.signature import load_private_key
from runtimes.metrics.answer_kind import AnswerKind, kind_of_answers
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.ort.providers import check_machine
from runtimes.preprocessing.image_batches import ImageErrors, image_batches
from runtimes.preprocessing.transform import Preprocessing
from runtimes.trt.tensorrt_library import load_library

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.tracing.export import ExportedModel

MAX_JUDGED = 256
"""Images that decide among architectures which a checkpoint fits alike."""

NUM_GOLDEN = 16
"""Inputs stored with PyTorch's logits, for the device's self-check."""


def run_export(options: ExportOptions, reporter: Reporter) -> ExportReport:
    """Run the main job.

    Raises:
        ExportError, CalibrationError, RuntimeAdapterError: Bad input; nothing was written.
        ExportCheckError: The export does not answer like PyTorch, or an accuracy budget cannot hold; nothing was
            written.
    """
    run = _prepare(options, reporter)
    artifacts = _export(run)

    from resnet_export.export_job.measure import measure
    from resnet_export.export_job.write_bundle import write_bundle

    content = write_bundle(run, artifacts, measure(run, artifacts))
    if options.engine:
        reporter.done(f"bundle written: {options.folder}/; it stays, whatever becomes of the engine")
        content["engine"] = _build_engine(run)
    return report_from_content(content)


def _prepare(options: ExportOptions, reporter: Reporter) -> ExportRun:
    """Check what is cheap to check, choose the images, load the model."""
    if isinstance(options.model, (str, Path)):
        check_model_name(str(options.model))
    check_opset(options.target, options.target.opset if options.opset is None else options.opset)
    check_output(options.folder, force=options.force)
    if options.sign is not None:
        load_private_key(options.sign)  # a wrong key is told now, not after an hour
    if options.engine:
        load_library("rtx" if options.rtx else "tensorrt")
    check_machine(options.calib_provider)
    for other in options.other_runtimes:
        other.check()  # a missing library is told now, not after an hour
    labels = _read_labels(options.labels) if isinstance(options.labels, Path) else options.labels
    images = choose_images(options)
    _tell_copies(images, reporter)
    with reporter.working(f"loading {options.model_name}"):
        loaded = _load(options, labels, images)
    _tell_loaded(loaded, reporter)
    if (assumed := assumed_resize(options.preprocessing, loaded.preprocessing)) is not None:
        reporter.warn(assumed)
    for line in unusual_files((*images.calibration, *images.measured)):
        reporter.done(line)
    if loaded.preprocessing_source.startswith("ImageNet's, assumed") and options.preprocessing.mean is None:
        reporter.warn(
            f"{options.model_name} does not say how its images were prepared: ImageNet's mean and standard deviation "
            "are assumed; give --mean and --std (and --resize) if it was trained otherwise"
        )
    _check_head(options, loaded)
    classes = _class_indices(options, images, loaded, reporter)
    golden = _golden_inputs(images, loaded.preprocessing)
    return ExportRun(options, loaded, images, classes, golden, reporter)


def _check_head(options: ExportOptions, loaded: LoadedModel) -> None:
    """Refuse what needs logits of a model that gives none, and more best classes than there are.

    Raises:
        ExportError: Before any work.
    """
    wanted = {"--softmax": options.softmax, "--topk": options.topk, "--max-top1-drop": options.max_top1_drop}
    wanted["--min-agreement"] = options.min_agreement
    named = [option for option, value in wanted.items() if value]
    if named and not loaded.gives_logits:
        raise ExportError(f"{', '.join(named)} needs one output of logits [N, classes], and this model gives none")
    if options.topk is not None and options.topk > loaded.num_classes:
        raise ExportError(f"--topk {options.topk}: the model has {loaded.num_classes} classes; give at most that")


def _build_engine(run: ExportRun) -> dict[str, Any]:
    """Build the engine of the bundle just written; the bundle stays, whatever becomes of the engine."""
    from exporter.engines.build_options import BuildOptions
    from resnet_export.build_job.build_step import EngineRequest, engine_report, have_engine

    options = run.options
    flavor = "rtx" if options.rtx else "tensorrt"
    request = EngineRequest(options.folder, options.engine_precision, flavor, BuildOptions(batch=options.batch))
    return engine_report(have_engine(request, run.reporter))


def _tell_copies(images: ChosenImages, reporter: Reporter) -> None:
    if images.copies:
        named = "; ".join(f"{path} = {other}" for path, other in images.copies[:3])
        reporter.warn(f"{len(images.copies)} validation images are copies of calibration images and left out: {named}")


def _read_labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise ExportError(f"--labels {path}: cannot be read ({err})") from err
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)


def _load(options: ExportOptions, labels: tuple[str, ...] | None, images: ChosenImages) -> LoadedModel:
    loaded = load_any(
        options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        preprocessing=options.preprocessing,
        checkpoint_key=options.checkpoint_key,
        head_activation=options.head_activation,
        outputs=options.outputs,
        checks_output=not options.features,
        judge=None if options.val is None or options.features else partial(_top1, options, images, labels),
    )
    if labels is not None and not loaded.gives_logits:
        raise ExportError("--labels: this model gives features or maps, no classes; leave it out, or say --num-classes")
    if labels is not None:
        loaded = replace(loaded, labels=labels)
    if options.features:
        from exporter.tracing.features import with_features

        loaded = with_features(loaded, options.features)
    if loaded.labels is not None:
        check_labels(
            loaded.labels,
            loaded.num_classes,
            f"--labels {options.labels}" if isinstance(options.labels, Path) else "labels" if labels else "the weights",
        )
    return loaded


def _top1(options: ExportOptions, images: ChosenImages, labels: tuple[str, ...] | None, loaded: LoadedModel) -> float:
    """Return the top-1 accuracy of a model that is only a candidate, on the first images of `--val`."""
    from runtimes.pytorch import TorchRuntime

    assert options.val is not None
    paths = images.measured[:MAX_JUDGED]
    classes = _classes(options.val, options, images, labels or loaded.labels, loaded.num_classes)
    if classes is None:
        raise ExportError("MODEL auto: --val has no labels to choose by; name the model, or give --val-labels FILE")
    meter = LogitMeter(strict=True)
    with TorchRuntime(loaded.module, output_names=loaded.outputs) as runtime:
        batches = image_batches(paths, loaded.preprocessing, batch_size=8, on_error=ImageErrors(), max_bad_fraction=1.0)
        for batch in batches:
            logits = first_output(runtime, batch.images)
            meter.add(logits, logits, labels=[classes.of[path] for path in batch.paths])
    return meter.report().top1_reference or 0.0


def _tell_loaded(loaded: LoadedModel, reporter: Reporter) -> None:
    from exporter.models.onnx_source import LoadedOnnx

    count = f"{sum(parameter.numel() for parameter in loaded.module.parameters()):,} parameters"
    if isinstance(loaded, LoadedOnnx) and loaded.file is not None:
        count = f"{loaded.file.num_parameters:,} numbers in its constants"
    height, width = loaded.preprocessing.input_size
    reporter.done(
        f"{loaded.model_id} ({loaded.source}), weights {loaded.weights}: {count}, {loaded.num_classes} "
        f"{'classes' if loaded.gives_logits else 'channels'}"
    )
    reporter.done(f"input {height}x{width}; preprocessing: {loaded.preprocessing_source}")
    reporter.done(f"each picture: {loaded.preprocessing.in_words}")
    for note in loaded.notes:
        reporter.done(note)
    for warning in loaded.warnings:
        reporter.warn(warning)


def _class_indices(
    options: ExportOptions, images: ChosenImages, loaded: LoadedModel, reporter: Reporter
) -> ClassIndex | None:
    if options.val is None:
        return None
    if not loaded.gives_logits:
        reporter.warn("--val: features have no top-1; its images are used without their labels")
        return None
    classes = _classes(options.val, options, images, loaded.labels, loaded.num_classes)
    if classes is None:
        if options.max_top1_drop is not None:
            raise ExportError(
                "--max-top1-drop needs labels, and --val has none: give class folders or --val-labels FILE"
            )
        reporter.warn(
            "--val has no labels (no class folders, no --val-labels FILE): agreement and SQNR are measured, not top-1"
        )
        return None
    reporter.done(f"{len(images.measured)} validation images. {classes.how}")
    return classes


def _classes(
    val: ImageSource, options: ExportOptions, images: ChosenImages, labels: tuple[str, ...] | None, num_classes: int
) -> ClassIndex | None:
    """Return the class of every measured image: as given with the images, else by its folder; None where none says."""
    if options.val_labels is not None:
        return classes_from_labels(val.paths(), options.val_labels, num_classes)
    return class_indices(val.root, images.measured, labels, num_classes)


def _golden_inputs(images: ChosenImages, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return 16 prepared inputs: of the measured images first, filled up with the package's photographs."""
    from exporter.models.check_images import load_check_images

    first: list[NDArray[np.float32]] = []
    if images.measured:
        batches = image_batches(
            images.measured[: NUM_GOLDEN + images.allowed_bad],
            preprocessing,
            batch_size=1,
            on_error=ImageErrors(),
            max_bad_fraction=1.0,
        )
        for batch in batches:
            first.append(batch.images)
            if len(first) == NUM_GOLDEN:
                break
    return np.concatenate([*first, load_check_images(preprocessing)])[:NUM_GOLDEN]


def _export(run: ExportRun) -> Artifacts:
    """Compute every file of the bundle, and the check that lets them be written."""
    from exporter.tracing.check_export import (
        MAX_RELATIVE_DIFFERENCE,
        check_against_pytorch,
        check_declared_shapes,
    )
    from exporter.tracing.check_hard_frames import hard_frames
    from exporter.tracing.check_rows import check_rows_are_independent
    from exporter.tracing.export import ExportConfig, export_loaded
    from exporter.tracing.float32_rounding import exact_outputs
    from resnet_export.export_job.dla_files import dla_files
    from resnet_export.export_job.finish_files import finish_files
    from resnet_export.export_job.quantize import quantize_images
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.pytorch import TorchRuntime

    options, loaded, golden, reporter = run.options, run.loaded, run.golden, run.reporter
    with reporter.working("folding BatchNorm, tracing, writing ONNX"):
        exported = export_loaded(loaded, ExportConfig(options.target, options.opset))
    _tell_folding(exported, reporter)
    name = loaded.reference_name
    with (
        reporter.working(f"comparing with {name}"),
        TorchRuntime(loaded.module, output_names=loaded.outputs) as reference,
    ):
        exact = None if loaded.source == "onnx" else partial(exact_outputs, loaded.module)
        check_rows_are_independent(
            reference, exported.onnx, golden, open_runtime=OrtRuntime, reference_name=name, exact=exact
        )
        check_declared_shapes(exported.onnx, golden[:2], open_runtime=OrtRuntime)
        check = check_against_pytorch(
            reference,
            exported.onnx,
            golden,
            open_runtime=OrtRuntime,
            reference_name=name,
            exact=exact,
            hard={**hard_frames(loaded.preprocessing), "an input of zeros": np.zeros_like(golden[:1])},
        )
    for frame in check.nonfinite:
        reporter.warn(f"{name} itself gives NaN or Inf on {frame}; the files are not compared on it")
    if check.max_rounding is not None:
        reporter.warn(
            f"float32 rounds by more than {MAX_RELATIVE_DIFFERENCE:g} of the largest logit in this network: up to "
            f"{check.max_rounding:.2g} from {name} in float64, whoever computes it; the file is no further off"
        )
    reporter.done(
        f"ONNX opset {exported.config.resolved_opset} equals {name}: largest |difference| {check.max_abs_diff:.2g} "
        f"at largest |{'logit' if loaded.gives_logits else 'feature'}| {check.max_abs_logit:.3g}, batch "
        f"{', '.join(map(str, check.batch_sizes))}"
    )
    answers = _answers(run, exported) if loaded.gives_logits else AnswerKind.FEATURES
    float16 = _float16(exported, golden, reporter) if options.fp16 else None
    if options.fp16 and options.target.name == "onnxruntime":
        reporter.warn(ARM_ADDS_IN_FLOAT16)
    int8, budget, kept = None, None, None
    if options.int8:
        int8, budget, kept = quantize_images(run, exported)
    int8_float16 = None
    if int8 is not None and options.has_int8_float16:
        int8_float16 = _int8_float16(int8.quantized.model, golden, reporter)
    finish = Finish(options.input_type == "uint8", options.softmax, options.topk)
    artifacts = Artifacts(exported, check, float16, int8, int8_float16, finish, budget, kept, answers=answers)
    artifacts = replace(artifacts, hard=_on_hard_frames(run, artifacts))
    artifacts = replace(artifacts, finished=finish_files(run, artifacts))
    return replace(artifacts, dla=dla_files(run, artifacts)) if options.dla else artifacts


def _answers(run: ExportRun, exported: ExportedModel) -> AnswerKind:
    """Return what the network gives, by the end of its graph or by its answers, and tell where it is no logits.

    Raises:
        ExportError: If `--softmax` would be a second one.
    """
    from exporter.graph.output_kind import output_kind
    from runtimes.pytorch import TorchRuntime

    kind = output_kind(exported.onnx)
    if kind is AnswerKind.LOGITS:
        with TorchRuntime(run.loaded.module, output_names=run.loaded.outputs) as reference:
            kind = kind_of_answers(first_output(reference, run.golden)) or kind
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
    from runtimes.pytorch import TorchRuntime

    files, loaded = artifacts.model_files(), run.loaded
    open_runtime = partial(OrtRuntime, exact_qdq=run.options.target.exact_int8_simulation)
    with TorchRuntime(loaded.module, output_names=loaded.outputs) as reference:
        found = check_hard_frames(
            reference, files, loaded.preprocessing, run.golden, open_runtime=open_runtime, warn=run.reporter.warn
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
    paths_of: dict[str, list[str]] = {}
    for kept in report.kept:
        paths_of.setdefault(kept.reason, []).append(kept.batchnorm)
    for reason, paths in paths_of.items():
        named = f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} BatchNorms, first {paths[0]}, are"
        reporter.done(f"{named} not folded but kept as one affine operation each: {reason}")


ARM_ADDS_IN_FLOAT16 = (
    "FP16: on ARM processors with FP16 arithmetic ONNX Runtime's CPU provider also adds in FP16, so that answers there "
    "are less exact than here (46 instead of 62 dB on a ResNet-18, docs/sessions.md); verify measures it on the device"
)


def _float16(exported: ExportedModel, golden: NDArray[np.float32], reporter: Reporter) -> Any:
    from exporter.passes.float16 import float16_from_float32
    from exporter.tracing.check_export import first_nonfinite_tensor
    from runtimes.ort.adapter import OrtRuntime

    with reporter.working("typing FP16"):
        result = float16_from_float32(exported.onnx)
        tensor = first_nonfinite_tensor(result.model, golden[:2], open_runtime=OrtRuntime)
    _refuse_overflow(tensor)
    reporter.done(f"FP16: {result.num_changes} constants converted, every activation finite")
    for note in result.skipped:
        reporter.done(f"FP16: {note}")
    return result.model


def _int8_float16(quantized: ModelProto, golden: NDArray[np.float32], reporter: Reporter) -> ModelProto:
    from exporter.passes.float16_qdq import SMALLEST_SCALE, float16_qdq_from_float32
    from exporter.tracing.check_export import first_nonfinite_tensor
    from runtimes.ort.adapter import OrtRuntime

    with reporter.working("typing INT8 + FP16"):
        result = float16_qdq_from_float32(quantized)
        exact = partial(OrtRuntime, exact_qdq=True)
        tensor = first_nonfinite_tensor(result.model, golden[:2], open_runtime=exact)
    _refuse_overflow(tensor)
    reporter.done("INT8 + FP16: scales and all that is not quantized in FP16, every activation finite")
    for note in result.notes:
        reporter.done(f"INT8 + FP16: {note}")
    if result.num_raised:
        reporter.done(f"{result.num_raised} scales raised to {SMALLEST_SCALE:.2g}: FP16 loses precision below it")
    return result.model


def _refuse_overflow(tensor: str | None) -> None:
    if tensor is not None:
        raise NonFiniteTensorError(
            f"FP16 overflows: tensor {tensor!r} holds NaN or Inf on real images (FP16 ends at 65504); export without "
            "--fp16, or scale the input as in training"
        )
