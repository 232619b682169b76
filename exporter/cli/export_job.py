"""The main job: load, fold, trace, check, calibrate, quantize, compare, write the bundle, tell.

Cheap checks come first, so that a wrong folder is told before torch is imported. Nothing is written until everything
has been computed; then the bundle appears whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.bundle import check_output
from exporter.cli.arguments import ExportOptions
from exporter.cli.choose_images import ChosenImages, ClassIndex, choose_images, class_indices
from exporter.cli.terminal import Terminal
from exporter.errors import ExportError, NonFiniteTensorError
from exporter.finish import Finish
from exporter.load_model import load_model
from exporter.loaded_model import LoadedModel, ModelRequest, check_labels
from exporter.model_names import check_model_name
from exporter.target import check_opset
from runtimes.image_batches import Batch, ImageErrors, image_batches
from runtimes.ort_providers import check_machine
from runtimes.preprocessing import Preprocessing
from runtimes.signature import load_private_key
from runtimes.trt_library import load_library

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.calibration_table import CalibrationTable
    from calibration.qdq import QuantizedModel
    from calibration.quantize_model import QuantizationResult
    from exporter.cli.accuracy_budget import BudgetOutcome
    from exporter.cli.dla_files import DlaFiles
    from exporter.exported_model import ExportedModel
    from exporter.post_export_check import CheckReport

NUM_GOLDEN = 16
"""Inputs stored with PyTorch's logits, for the device's self-check."""

PIXELS_PER_BATCH = 2 * 224 * 224
"""Calibration and comparison take this many input pixels at a time: two images at 224, 64 at 32. A ResNet-50 at 224
leaves 36 MB of activations per image, so memory stays small; larger batches are no faster on a CPU."""
MAX_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Artefacts:
    """Everything the run computed, ready to be measured and written.

    `finished` holds, by file name, what is written: the models of the other fields with the input and the head asked
    for. Accuracy is measured on the logits or features of those without; that both answer alike has been checked.
    `dla` is what `--dla` adds to the bundle.
    """

    exported: ExportedModel
    check: CheckReport
    float16: Any | None
    int8: QuantizationResult | None
    int8_float16: ModelProto | None
    finish: Finish
    budget: BudgetOutcome | None = None
    finished: Mapping[str, ModelProto] = field(default_factory=dict)
    dla: DlaFiles | None = None

    @property
    def table(self) -> CalibrationTable | None:
        """The calibration table, where INT8 was asked for."""
        return None if self.int8 is None else self.int8.table

    @property
    def quantized(self) -> QuantizedModel | None:
        """The Q/DQ model, where INT8 was asked for."""
        return None if self.int8 is None else self.int8.quantized


def run_export(options: ExportOptions) -> None:
    """Run the main job.

    Raises:
        ExportError, CalibrationError, RuntimeAdapterError: Bad input; nothing was written.
        ExportCheckError: The export does not answer like PyTorch, or an accuracy budget cannot hold; nothing was
            written.
    """
    check_model_name(options.model)
    check_opset(options.target, options.target.opset if options.opset is None else options.opset)
    check_output(options.output, force=options.force)
    if options.sign is not None:
        load_private_key(options.sign)  # a wrong key is told now, not after an hour
    if options.engine:
        load_library("rtx" if options.rtx else "tensorrt")
    check_machine(options.calib_provider)
    labels = _read_labels(options.labels)
    images = choose_images(options)
    terminal = Terminal(quiet=options.quiet)
    _tell_copies(images, terminal)

    with terminal.working(f"loading {options.model}"):
        loaded = _load(options, labels)
    _tell_loaded(loaded, terminal)
    if loaded.source == "onnx" and options.mean is None:
        terminal.warn(
            f"{options.model} does not say how its images were prepared: ImageNet's mean and standard deviation are "
            "assumed; give --mean and --std (and --resize) if it was trained otherwise"
        )
    classes = _class_indices(options, images, loaded, terminal)
    golden = _golden_inputs(images, loaded.preprocessing)
    artefacts = _export(options, loaded, images, classes, golden, terminal)

    from exporter.cli.measure import measure
    from exporter.cli.write_bundle import write_bundle

    rows = measure(options, artefacts, images, classes, terminal)
    report = write_bundle(options, artefacts, rows, golden, images, terminal)
    if options.engine:
        terminal.done(f"bundle written: {options.output}/; it stays, whatever becomes of the engine")
        report["engine"] = _build_engine(options, terminal)
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif not options.quiet:
        from exporter.cli.result_table import print_result

        print_result(report)


def _build_engine(options: ExportOptions, terminal: Terminal) -> dict[str, Any]:
    """Build the engine of the bundle just written; the bundle stays, whatever becomes of the engine."""
    from exporter.cli.build_command import EngineRequest, engine_report, have_engine
    from exporter.engine import BuildOptions

    flavour = "rtx" if options.rtx else "tensorrt"
    request = EngineRequest(options.output, options.engine_precision, flavour, BuildOptions(batch=options.batch))
    return engine_report(have_engine(request, terminal))


def _tell_copies(images: ChosenImages, terminal: Terminal) -> None:
    if images.copies:
        named = "; ".join(f"{path} = {other}" for path, other in images.copies[:3])
        terminal.warn(f"{len(images.copies)} validation images are copies of calibration images and left out: {named}")


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


def _load(options: ExportOptions, labels: tuple[str, ...] | None) -> LoadedModel:
    loaded = load_model(ModelRequest(options.model, options.weights, options.num_classes, options.preprocessing))
    if labels is not None:
        loaded = replace(loaded, labels=labels)
    if options.features:
        from exporter.features import with_features

        loaded = with_features(loaded, options.features)
    if loaded.labels is not None:
        check_labels(loaded.labels, loaded.num_classes, f"--labels {options.labels}" if labels else "the weights")
    return loaded


def _tell_loaded(loaded: LoadedModel, terminal: Terminal) -> None:
    from exporter.onnx_models import LoadedOnnx

    count = f"{sum(parameter.numel() for parameter in loaded.module.parameters()):,} parameters"
    if isinstance(loaded, LoadedOnnx) and loaded.file is not None:
        count = f"{loaded.file.num_parameters:,} numbers in its constants"
    height, width = loaded.preprocessing.input_size
    terminal.done(
        f"{loaded.model_id} ({loaded.source}), weights {loaded.weights}: {count}, {loaded.num_classes} classes"
    )
    terminal.done(f"input {height}x{width}; preprocessing: {loaded.preprocessing_source}")
    for note in loaded.notes:
        terminal.done(note)


def _class_indices(
    options: ExportOptions, images: ChosenImages, loaded: LoadedModel, terminal: Terminal
) -> ClassIndex | None:
    if options.val is None:
        return None
    if options.features:
        terminal.warn("--val: features have no top-1; its images are used without their labels")
        return None
    classes = class_indices(options.val, images.measured, loaded.labels, loaded.num_classes)
    terminal.done(f"{len(images.measured)} validation images. {classes.how}")
    return classes


def batch_size_for(preprocessing: Preprocessing) -> int:
    """Return how many images go through a model at a time."""
    height, width = preprocessing.input_size
    return max(1, min(MAX_BATCH, PIXELS_PER_BATCH // (height * width)))


def stream(
    what: str, paths: Sequence[Path], preprocessing: Preprocessing, allowed_bad: int, terminal: Terminal
) -> Iterator[Batch]:
    """Yield prepared batches behind a progress bar; afterwards name the images that could not be read."""
    errors = ImageErrors()
    batches = image_batches(
        paths,
        preprocessing,
        batch_size=batch_size_for(preprocessing),
        on_error=errors,
        max_bad_fraction=min(1.0, allowed_bad / len(paths)),
    )
    yield from terminal.track(what, batches, total=len(paths), sizes=lambda batch: len(batch.paths))
    if len(errors):
        named = "; ".join(reason for _, reason in errors.items[:5])
        terminal.warn(f"{what}: {len(errors)} of {len(paths)} images could not be read and were left out: {named}")


def _golden_inputs(images: ChosenImages, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return 16 prepared inputs: of the measured images first, filled up with the package's photographs."""
    from exporter.check_images import load_check_images

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


def _export(
    options: ExportOptions,
    loaded: LoadedModel,
    images: ChosenImages,
    classes: ClassIndex | None,
    golden: NDArray[np.float32],
    terminal: Terminal,
) -> Artefacts:
    """Compute every file of the bundle, and the check that lets them be written."""
    from exporter.cli.dla_files import dla_files
    from exporter.cli.finish_files import finish_files
    from exporter.cli.quantize_images import quantize_images
    from exporter.exported_model import ExportConfig, export_loaded
    from exporter.post_export_check import MAX_RELATIVE_DIFFERENCE, check_against_pytorch
    from runtimes.ort import OrtRuntime
    from runtimes.pytorch import TorchRuntime, float64_outputs

    with terminal.working("folding BatchNorm, tracing, writing ONNX"):
        exported = export_loaded(loaded, ExportConfig(options.target, options.opset))
    _tell_folding(exported, terminal)
    name = loaded.reference_name
    with (
        terminal.working(f"comparing with {name}"),
        TorchRuntime(loaded.module, output_names=loaded.outputs) as reference,
    ):
        check = check_against_pytorch(
            reference,
            exported.onnx,
            golden,
            open_runtime=OrtRuntime,
            reference_name=name,
            exact=None if loaded.source == "onnx" else partial(float64_outputs, loaded.module),
        )
    if check.max_rounding is not None:
        terminal.warn(
            f"float32 rounds by more than {MAX_RELATIVE_DIFFERENCE:g} of the largest logit in this network: {name} "
            f"itself is {check.max_rounding:.2g} off its own answer in float64, the file no more than twice that"
        )
    terminal.done(
        f"ONNX opset {exported.config.resolved_opset} equals {name}: largest |difference| {check.max_abs_diff:.2g} "
        f"at largest |{'feature' if options.features else 'logit'}| {check.max_abs_logit:.3g}, batch "
        f"{', '.join(map(str, check.batch_sizes))}"
    )
    float16 = _float16(exported, golden, terminal) if options.fp16 else None
    int8, budget = None, None
    if options.int8:
        int8, budget = quantize_images(options, exported, images, classes, terminal)
    int8_float16 = None
    if int8 is not None and options.has_int8_float16:
        int8_float16 = _int8_float16(int8.quantized.model, golden, terminal)
    finish = Finish(options.input_type == "uint8", options.softmax, options.topk)
    artefacts = Artefacts(exported, check, float16, int8, int8_float16, finish, budget)
    artefacts = replace(artefacts, finished=finish_files(options, artefacts, golden, terminal))
    return replace(artefacts, dla=dla_files(options, artefacts, images, golden, terminal)) if options.dla else artefacts


def _tell_folding(exported: ExportedModel, terminal: Terminal) -> None:
    report = exported.folding
    total = len(report.folded) + len(report.kept)
    terminal.done(f"{len(report.folded)} of {total} BatchNorms folded in float64" if total else "no BatchNorm to fold")
    paths_of: dict[str, list[str]] = {}
    for kept in report.kept:
        paths_of.setdefault(kept.reason, []).append(kept.batchnorm)
    for reason, paths in paths_of.items():
        named = f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} BatchNorms, first {paths[0]}, are"
        terminal.done(f"{named} not folded but kept as one affine operation each: {reason}")


def _float16(exported: ExportedModel, golden: NDArray[np.float32], terminal: Terminal) -> Any:
    from exporter.float16 import float16_from_float32
    from exporter.post_export_check import first_nonfinite_tensor
    from runtimes.ort import OrtRuntime

    with terminal.working("typing FP16"):
        result = float16_from_float32(exported.onnx)
        tensor = first_nonfinite_tensor(result.model, golden[:2], open_runtime=OrtRuntime)
    _refuse_overflow(tensor)
    terminal.done(f"FP16: {result.num_changes} constants converted, every activation finite")
    return result.model


def _int8_float16(quantized: ModelProto, golden: NDArray[np.float32], terminal: Terminal) -> ModelProto:
    from exporter.float16_qdq import SMALLEST_SCALE, float16_qdq_from_float32
    from exporter.post_export_check import first_nonfinite_tensor
    from runtimes.ort import OrtRuntime

    with terminal.working("typing INT8 + FP16"):
        result = float16_qdq_from_float32(quantized)
        exact = partial(OrtRuntime, exact_qdq=True)
        tensor = first_nonfinite_tensor(result.model, golden[:2], open_runtime=exact)
    _refuse_overflow(tensor)
    terminal.done("INT8 + FP16: scales and all that is not quantized in FP16, every activation finite")
    if result.num_raised:
        terminal.done(f"{result.num_raised} scales raised to {SMALLEST_SCALE:.2g}: FP16 loses precision below it")
    return result.model


def _refuse_overflow(tensor: str | None) -> None:
    if tensor is not None:
        raise NonFiniteTensorError(
            f"FP16 overflows: tensor {tensor!r} holds NaN or Inf on real images (FP16 ends at 65504); export without "
            "--fp16, or scale the input as in training"
        )
