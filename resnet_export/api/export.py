"""`resnet_export.export`: a model to a bundle of ONNX files, with proof that they answer the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

from calibration.methods.effort import DEFAULT_EFFORT
from calibration.methods.method import Method
from exporter.models.loaded_model import DEFAULT_WEIGHTS
from exporter.target import Target
from resnet_export.api.choices import class_numbers, method_of, target_of
from resnet_export.api.images import Images, image_source
from resnet_export.api.preprocessing import PreprocessingLike, preprocessing_options
from resnet_export.console.reporter import Listener, Reporter
from resnet_export.export_job.context.options import DEFAULT_NUM_CALIB, ExportOptions
from resnet_export.export_job.report import ExportReport
from resnet_export.images.temporary_folder import TemporaryFolder
from runtimes.argument_kinds import Count, StrPath, checked_kinds
from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange

if TYPE_CHECKING:
    from torch import nn

ModelLike = Union["nn.Module", StrPath]


@checked_kinds
def export(
    model: ModelLike,
    output: StrPath | None = None,
    *,
    weights: StrPath = DEFAULT_WEIGHTS,
    checkpoint_key: str | None = None,
    head_activation: str | None = None,
    num_classes: Count | None = None,
    labels: StrPath | Sequence[str] | None = None,
    preprocessing: PreprocessingLike = None,
    features: Sequence[str] = (),
    outputs: Sequence[str] = (),
    input_type: Literal["float32", "uint8"] = "float32",
    softmax: bool = False,
    topk: Count | None = None,
    int8: bool = False,
    fp16: bool = False,
    calib: Images | None = None,
    num_calib: Count = DEFAULT_NUM_CALIB,
    calib_cache: StrPath | None = None,
    calib_provider: Literal["cpu", "cuda"] = "cpu",
    method: str | Method = "mse",
    effort: int = DEFAULT_EFFORT,
    zero_points: Literal["none", "biases", "pads"] | None = None,
    keep_float: Sequence[str] = (),
    target: str | Target = "tensorrt",
    opset: Count | None = None,
    batch: int | tuple[int, int, int] | BatchRange = DEFAULT_BATCH,
    engine: bool = False,
    rtx: bool = False,
    dla: bool = False,
    val: Images | None = None,
    val_labels: Sequence[int] | None = None,
    num_val: Count | None = None,
    measure_on: Sequence[str] = (),
    max_top1_drop: float | None = None,
    min_agreement: float | None = None,
    sign: StrPath | None = None,
    force: bool = False,
    on_event: Listener | None = None,
) -> ExportReport:
    """Export a model to a bundle: FP32, and FP16 and INT8 where asked for, compared with PyTorch.

    Args:
        model: A `torch.nn.Module` (copied; it stays as it is), a name ("resnet50", "torchvision:NAME", "timm:NAME",
            "package.module:callable", "auto"), or the path of an `.onnx` file.
        output: Bundle folder; ./MODEL-PRECISION by default.
        weights: "DEFAULT", a published name, a weights file, or "random"; a module brings its own.
        checkpoint_key: Where the weights are in a weights file, such as "model_ema"; None finds them.
        head_activation: What stands between the Linears of a changed classifier, such as "relu".
        num_classes: Width of the last layer; None takes what the weights say.
        labels: Class names in index order, or a file of them.
        preprocessing: How images are prepared, where the weights do not say.
        features: Modules whose outputs replace the logits.
        outputs: Which outputs of a model that gives several: keys of a dict, places in a tuple, names in an ONNX file.
        input_type: "uint8" takes camera frames [N, H, W, 3], normalized in the graph.
        softmax: Probabilities as output.
        topk: The best classes as output.
        int8: Write `model.int8.onnx`; needs `calib`.
        fp16: Write `model.fp16.onnx`; with `int8` also INT8 with FP16 around it.
        calib: Images like those the model will see: a folder, a list of files, pictures uint8 [H, W, 3], or prepared
            inputs float32 [N, C, H, W]. An iterable is read once and to its end, as those that are used are spread
            over all: limit one without end by `itertools.islice`; more than 100,000 are refused.
        num_calib: How many of them are used, at most.
        calib_cache: Folder where calibrations are kept; "off" for none; None for the user's cache folder.
        calib_provider: Where the float model runs to calibrate.
        method: "mse", "max", "percentile", "entropy" or "auto", or one of `calibration`'s `Method` values.
        effort: 0 ranges only, 1 default, 2 most accurate, minutes.
        zero_points: What takes those of activations in a file for TensorRT: "none" (effort 0), "biases" where no layer
            pads (effort 1), "pads": biases everywhere, and a layer that pads reads a Pad, which costs time when the
            network runs (effort 2). None leaves it to `effort`.
        keep_float: Modules or nodes that INT8 leaves in float, as PyTorch names them: ["layer4.1.conv2", "layer1"].
        target: "tensorrt", "jetpack5", "jetpack6", "jetpack7" or "onnxruntime".
        opset: ONNX opset; the target's by default.
        batch: Batch sizes that engines are built for: one, or (min, opt, max).
        engine: Also build the TensorRT engine of the lowest precision.
        rtx: With `engine`: TensorRT-RTX, which needs no GPU to build.
        dla: Also write what a build for Orin's DLA needs.
        val: Images to measure on, like `calib`; without it some of `calib` are held out.
        val_labels: Class index of each image of `val`; folders of classes need none.
        num_val: How many of them are used, at most.
        measure_on: Runtimes such as "openvino" on which the file that each would run is measured too.
        max_top1_drop: Percentage points of top-1 that INT8 may lose; else the worst layers stay in float.
        min_agreement: The same without labels, as a share of equal answers.
        sign: Private key (Ed25519, PEM) to sign the bundle with.
        force: Replace an existing bundle; accept fewer calibration images than make sense.
        on_event: Called with every step, warning and move of progress; None is silent.

    Returns:
        What was written and measured; `report.int8.sqnr_db`, `report.warnings`, `report.to_json()`.

    Raises:
        ExportError, CalibrationError, RuntimeAdapterError: Bad input; nothing was written.
        ExportCheckError: The export does not answer like PyTorch, or misses its accuracy budget; nothing was written.
        TypeError, ValueError: An argument is of no use; the message says what was expected.
    """
    from exporter.known_bad import refuse_known_bad

    model = checked_model(model)
    refuse_known_bad()
    with TemporaryFolder() as spilled:
        options = ExportOptions(
            model=model,
            weights=os.fspath(weights),
            checkpoint_key=checkpoint_key,
            head_activation=head_activation,
            num_classes=num_classes,
            labels=_labels(labels),
            preprocessing=preprocessing_options(preprocessing),
            features=tuple(features),
            outputs=tuple(outputs),
            input_type=input_type,
            softmax=softmax,
            topk=topk,
            int8=int8,
            fp16=fp16,
            calib=None if calib is None else image_source(calib, "calib", spilled),
            num_calib=num_calib,
            calib_cache=None if calib_cache is None else os.fspath(calib_cache),
            calib_provider=calib_provider,
            method=method_of(method),
            effort=effort,
            zero_points=zero_points,
            keep_float=tuple(keep_float),
            target=target_of(target),
            opset=opset,
            batch=batch_range(batch),
            engine=engine,
            rtx=rtx,
            dla=dla,
            val=None if val is None else image_source(val, "val", spilled),
            val_labels=class_numbers(val_labels),
            num_val=num_val,
            measure_on=tuple(measure_on),
            max_top1_drop=max_top1_drop,
            min_agreement=min_agreement,
            output=None if output is None else Path(output),
            sign=None if sign is None else Path(sign),
            force=force,
        )
        from resnet_export.export_job.job import run_export

        return run_export(options, Reporter(on_event))


def checked_model(model: object) -> ModelLike:
    """Return `model` if it is of a type that can be a model.

    Raises:
        TypeError: If it is not; the message says what was expected.
    """
    if isinstance(model, (str, Path)):
        return model
    if isinstance(model, os.PathLike):
        return Path(model)
    if isinstance(model, type) and hasattr(model, "forward"):
        raise TypeError(f"model: got the class {model.__name__}, expected one of it: {model.__name__}(...)")
    if hasattr(model, "state_dict") and hasattr(model, "forward"):
        return model  # type: ignore[return-value]  # a torch.nn.Module, which is not imported to ask
    hint = "; call it and give what it returns" if callable(model) else ""
    if type(model).__name__ == "ExportedProgram":
        hint = (
            "; give the module that it was exported from, or convert it and give model.onnx: torch.onnx.export(program"
            '.module(), (torch.zeros(2, 3, 224, 224),), "model.onnx", dynamo=True, dynamic_shapes=({0: "batch"},))'
        )
    raise TypeError(
        f"model: got {type(model).__name__}, expected a torch.nn.Module, a name such as 'resnet50' or 'timm:NAME', or "
        f"the path of an .onnx file{hint}"
    )


def batch_range(given: int | tuple[int, int, int] | BatchRange) -> BatchRange:
    """Return the batch sizes that engines are built for.

    Raises:
        TypeError: If it is neither one size nor three.
    """
    if isinstance(given, BatchRange):
        return given
    if isinstance(given, int):
        return BatchRange(given, given, given)
    if isinstance(given, (tuple, list)) and len(given) == 3:
        return BatchRange(*given)
    raise TypeError(f"batch: got {given!r}, expected one size, or (min, opt, max)")


def _labels(given: StrPath | Sequence[str] | None) -> Path | tuple[str, ...] | None:
    if given is None:
        return None
    return Path(given) if isinstance(given, (str, os.PathLike)) else tuple(given)
