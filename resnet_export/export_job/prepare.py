"""Before the work: what is cheap to check, the images, the model, the classes, the inputs that are kept.

Cheap checks come first, so that a wrong folder is told before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.bundle.write_folder import check_output
from exporter.errors import ExportError
from exporter.models.load_model import load_any
from exporter.models.loaded_model import LoadedModel, check_labels
from exporter.models.model_names import parse_model
from exporter.preprocessing.options import assumed_resize
from exporter.target import check_opset
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.choose_images import ChosenImages, choose_images
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.context.remembered_answers import RememberedAnswers
from resnet_export.export_job.context.run import ExportRun
from resnet_export.images.class_index import ClassIndex, class_indices
from resnet_export.images.image_set import warn_of_files_passed_over
from resnet_export.images.prepared import warn_of_other_scale
from resnet_export.images.unusual_files import unusual_files
from runtimes.bundle.signature import load_private_key
from runtimes.counted import counted
from runtimes.io.bounded_read import MAX_JSON_BYTES, read_plain_file
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.ort.providers import check_machine
from runtimes.preprocessing.image_batches import Batch, image_batches
from runtimes.preprocessing.transform import Preprocessing
from runtimes.trt.tensorrt_library import load_library

MAX_JUDGED = 256
"""Images that decide among architectures which a checkpoint fits alike."""

NUM_GOLDEN = 16
"""Inputs stored with PyTorch's logits, for the device's self-check."""


def prepare(options: ExportOptions, reporter: Reporter) -> ExportRun:
    """Check what is cheap to check, choose the images, load the model.

    Raises:
        ExportError, RuntimeAdapterError: Bad input, or a library that is missing.
    """
    if isinstance(options.model, (str, Path)):
        parse_model(str(options.model))
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
    warn_of_files_passed_over(reporter, options.calib, options.val)
    _tell_copies(images, reporter)
    with reporter.working(f"loading {options.model_name}"):
        loaded = _load(options, labels, images)
    _tell_loaded(loaded, reporter)
    if options.val is not None:
        warn_of_other_scale(options.val, loaded.preprocessing, reporter)
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
    return ExportRun(options, loaded, _reference(loaded), images, classes, golden, reporter)


def _reference(loaded: LoadedModel) -> RememberedAnswers:
    from runtimes.pytorch import TorchRuntime

    return RememberedAnswers(TorchRuntime(loaded.module, output_names=loaded.outputs))


def _check_head(options: ExportOptions, loaded: LoadedModel) -> None:
    """Refuse what needs logits of a model that gives none, and more best classes than there are."""
    wanted = {"--softmax": options.softmax, "--topk": options.topk, "--max-top1-drop": options.max_top1_drop}
    wanted["--min-agreement"] = options.min_agreement
    named = [option for option, value in wanted.items() if value]
    if named and not loaded.gives_logits:
        raise ExportError(f"{', '.join(named)} needs one output of logits [N, classes], and this model gives none")
    if named and loaded.num_classes == 1:
        raise ExportError(f"{', '.join(named)} needs logits of several classes, and this model gives one number")
    if options.topk is not None and options.topk > loaded.num_classes:
        raise ExportError(f"--topk {options.topk}: the model has {loaded.num_classes} classes; give at most that")


def _tell_copies(images: ChosenImages, reporter: Reporter) -> None:
    if images.copies:
        named = "; ".join(f"{str(path)!r} = {str(other)!r}" for path, other in images.copies[:3])
        reporter.warn(
            f"{counted(len(images.copies), 'validation image is a copy', 'validation images are copies')} of "
            f"calibration images and left out: {named}"
        )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = read_plain_file(path, MAX_JSON_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        told = getattr(err, "strerror", err)
        raise ExportError(f"--labels {path}: cannot be read ({told}); expected a text file, one name a line") from err
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
    names = labels or loaded.labels
    classes = class_indices(options.val, images.measured, names, loaded.num_classes, options.val_labels)
    if classes is None:
        raise ExportError("MODEL auto: --val has no labels to choose by; name the model, or give --val-labels FILE")
    meter = LogitMeter(strict=True)
    with TorchRuntime(loaded.module, output_names=loaded.outputs) as runtime:
        for batch in image_batches(paths, loaded.preprocessing, batch_size=8, max_bad_fraction=1.0):
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
        f"{loaded.model_id} ({loaded.source}), weights {loaded.weights}: {count}, "
        f"{counted(loaded.num_classes, *(('class', 'classes') if loaded.gives_logits else ('channel',)))}"
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
    classes = class_indices(options.val, images.measured, loaded.labels, loaded.num_classes, options.val_labels)
    if classes is None:
        if options.max_top1_drop is not None:
            raise ExportError(
                "--max-top1-drop needs labels, and --val has none: give class folders or --val-labels FILE"
            )
        reporter.warn(
            "--val has no labels (no class folders, no --val-labels FILE): agreement and SQNR are measured, not top-1"
        )
        return None
    reporter.done(f"{counted(len(images.measured), 'validation image')}. {classes.how}")
    return classes


def _golden_inputs(images: ChosenImages, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return 16 prepared inputs: of the measured images first, filled up with the package's photographs."""
    from exporter.models.check_images import load_check_images

    first: Iterable[Batch] = ()
    if images.measured:
        paths = images.measured[: NUM_GOLDEN + images.allowed_bad]
        first = islice(image_batches(paths, preprocessing, batch_size=1, max_bad_fraction=1.0), NUM_GOLDEN)
    return np.concatenate([*(batch.images for batch in first), load_check_images(preprocessing)])[:NUM_GOLDEN]
