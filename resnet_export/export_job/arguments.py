"""The command line as a checked value. Imports no framework: `--help` must be quick."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS
from calibration.methods.method import METHODS, Method, describe, method_from_name
from calibration.mixed_precision.accuracy_budget import AccuracyBudget
from exporter.models.loaded_model import DEFAULT_WEIGHTS, HEAD_ACTIVATIONS
from exporter.models.model_names import FAMILIES, folder_name
from exporter.models.preprocessing_options import PreprocessingOptions
from exporter.target import MIN_FLOAT16_SCALE_OPSET, TARGETS, Target, target_from_name
from exporter.version import __version__
from resnet_export.console.option_types import (
    batch_range,
    interpolation,
    names,
    percentage_points,
    positive,
    resize,
    rgb,
    share,
)
from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange
from runtimes.preprocessing.transform import Interpolation


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the main job was asked to do; field by field as on the command line."""

    model: str
    weights: str
    checkpoint_key: str | None
    head_activation: str | None
    num_classes: int | None
    labels: Path | None
    input_size: int | None
    resize: int | tuple[int, int] | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: Interpolation | None
    features: tuple[str, ...]
    input_type: str
    softmax: bool
    topk: int | None
    int8: bool
    fp16: bool
    calib: Path | None
    num_calib: int
    calib_cache: str | None
    calib_provider: str
    method: Method
    effort: int
    target: Target
    opset: int | None
    batch: BatchRange
    engine: bool
    rtx: bool
    dla: bool
    val: Path | None
    num_val: int | None
    max_top1_drop: float | None
    min_agreement: float | None
    output: Path
    sign: Path | None
    force: bool
    json: bool
    quiet: bool
    verbose: bool

    @property
    def precision(self) -> str:
        """The lowest precision asked for: "int8", "fp16" or "fp32"."""
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"

    @property
    def has_int8_float16(self) -> bool:
        """Whether the bundle holds INT8 with FP16 around it: both were asked for, and the target reads FP16 scales."""
        opset = self.target.opset if self.opset is None else self.opset
        return self.int8 and self.fp16 and self.target.dialect == "tensorrt" and opset >= MIN_FLOAT16_SCALE_OPSET

    @property
    def engine_precision(self) -> str:
        """What `--engine` builds, a key of `runtimes.bundle.precision.MODEL_FILES`."""
        return "int8-fp16" if self.has_int8_float16 else self.precision

    @property
    def preprocessing(self) -> PreprocessingOptions:
        """What was said about preprocessing."""
        return PreprocessingOptions(self.input_size, self.resize, self.mean, self.std, self.interpolation)

    @property
    def budget(self) -> AccuracyBudget | None:
        """What INT8 must keep, or None where nothing was asked for."""
        if self.max_top1_drop is None and self.min_agreement is None:
            return None
        return AccuracyBudget(self.max_top1_drop, self.min_agreement)

    def to_json(self) -> dict[str, Any]:
        """Return what decided the result: every option but those that only change what is printed."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in _PRINTING}
        shown["method"] = describe(self.method)
        shown["target"] = self.target.name
        shown["batch"] = [self.batch.min, self.batch.opt, self.batch.max]
        if self.interpolation is not None:
            shown["interpolation"] = self.interpolation.value
        return {name: str(value) if isinstance(value, Path) else value for name, value in shown.items()}


_PRINTING = frozenset({"json", "quiet", "verbose", "force", "calib_cache", "sign"})

_DESCRIPTION = """\
Export a ResNet from PyTorch to a bundle of ONNX files (FP32, FP16, INT8) with proof that they answer the same.

MODEL is a name (resnet50, ...; resnet-export models lists them) of one of the families
{families};
torchvision:NAME or timm:NAME for any other of theirs, timm:hf-hub:ORG/NAME, your own code as package.module:callable,
or auto, which reads the architecture off --weights FILE; or FILE.onnx, exported elsewhere in float32.

Other verbs: resnet-export models (names, sizes, accuracy), resnet-export build BUNDLE (TensorRT engine),
resnet-export verify BUNDLE (does it answer like its reference, and if not, what broke), resnet-export lint FILE.onnx
(what the target refuses or computes otherwise), resnet-export sensitivity BUNDLE (which blocks cost INT8 its accuracy),
resnet-export bench BUNDLE (its speed here), resnet-export doctor (what this machine can do);
to serve: resnet-export triton BUNDLE, resnet-export deepstream BUNDLE, resnet-export classify (folders of images).
"""

_EPILOG = """\
examples:
  resnet-export resnet50 --int8 --fp16 --calib photos/ --val imagenet/val/
  resnet-export resnet18 --weights finetuned.pth --labels labels.txt --int8 --calib data/ --target jetpack6
  resnet-export resnet50 --weights random --fp16

exit codes: 0 done, 1 the export does not answer like PyTorch or misses its accuracy budget, 2 wrong use or bad input,
130 interrupted
"""


def parse_arguments(argv: Sequence[str]) -> ExportOptions:
    """Return the options; on wrong use print why and exit with 2, as argparse does."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.int8 and arguments.calib is None:
        parser.error(
            "--int8 needs --calib DIR with images like those the model will see: there is never a default data set, "
            "because INT8 ranges from other images fail silently"
        )
    if arguments.rtx and not arguments.engine:
        parser.error("--rtx says which engine --engine builds; give both, or neither")
    if arguments.engine and arguments.int8 and arguments.target.dialect != "tensorrt":
        parser.error(
            f"--target {arguments.target.name} writes INT8 that TensorRT does not read (UINT8 activations, INT32 "
            "bias); leave out --engine, or choose a TensorRT target"
        )
    if arguments.dla and not arguments.target.has_dla:
        parser.error(
            f"--target {arguments.target.name} has no DLA that this tool builds for (TensorRT 8.5 to 10.7 on Orin and "
            "Xavier do); leave out --dla, or choose --target jetpack6"
        )
    if arguments.calib_provider != "cpu" and not arguments.int8:
        parser.error("--calib-provider says where INT8 is calibrated; give --int8 --calib DIR too")
    if arguments.dla and not (arguments.int8 or arguments.fp16):
        parser.error("--dla needs --int8 or --fp16: a DLA computes in nothing else")
    if arguments.features and (arguments.softmax or arguments.topk is not None):
        parser.error("--features gives feature maps instead of logits; --softmax and --topk need logits")
    if arguments.features and (arguments.max_top1_drop, arguments.min_agreement) != (None, None):
        parser.error(
            "--features gives feature maps; --max-top1-drop and --min-agreement compare answers, which need logits"
        )
    if (arguments.max_top1_drop, arguments.min_agreement) != (None, None) and not arguments.int8:
        parser.error("--max-top1-drop and --min-agreement are budgets of INT8; give --int8 --calib DIR too")
    if arguments.max_top1_drop is not None and arguments.val is None:
        parser.error(
            "--max-top1-drop needs --val DIR with labelled images, one folder per class; without labels, "
            "--min-agreement SHARE compares INT8 with FP32 on images held out of --calib"
        )
    if arguments.quiet and arguments.json:
        parser.error("--quiet and --json contradict each other: --json prints the report")
    options = ExportOptions(**vars(arguments))
    if options.output is None:
        return replace(options, output=Path(f"{folder_name(options.model, options.weights)}-{options.precision}"))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-export",
        description=_DESCRIPTION.format(families=_wrapped(FAMILIES)),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"resnet-export {__version__}")
    _add_model_options(parser)
    _add_graph_options(parser)
    _add_precision_options(parser)
    _add_output_options(parser)
    return parser


def _wrapped(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), width=110, initial_indent="  ", subsequent_indent="  ")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("model", metavar="MODEL")
    group.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="W",
        help="DEFAULT, a published name such as IMAGENET1K_V1 (torchvision) or a1_in1k (timm), "
        "a .pth/.pt/.safetensors file, or random",
    )
    group.add_argument(
        "--checkpoint-key",
        metavar="KEY",
        help="where the weights are in FILE: state_dict_ema, model_ema, ema.module, teacher, ... (default: told)",
    )
    group.add_argument(
        "--head-activation",
        choices=HEAD_ACTIVATIONS,
        help="what stands between the Linears of a changed classifier, which no weights tell",
    )
    group.add_argument(
        "--num-classes", type=positive, metavar="N", help="width of the last layer (default: as the weights)"
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="one class name per line, in index order")
    group.add_argument("--input-size", type=positive, metavar="N", help="centre crop to N x N after resizing")
    group.add_argument(
        "--resize",
        type=resize,
        metavar="N|HxW",
        help="shorter side to N before the crop, or exactly HxW without a crop (default: as the weights)",
    )
    group.add_argument("--mean", type=rgb, metavar="R,G,B", help="subtracted, on the scale 0-1")
    group.add_argument("--std", type=rgb, metavar="R,G,B", help="divided by, on the scale 0-1")
    group.add_argument(
        "--interpolation",
        type=interpolation,
        metavar="bilinear|bicubic|...",
        help="of the resize (default: as the weights)",
    )


def _add_graph_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inputs and outputs")
    group.add_argument(
        "--features",
        type=names,
        default=(),
        metavar="A,B,...",
        help="outputs of these modules (layer2,layer3) instead of the logits",
    )
    group.add_argument(
        "--input",
        dest="input_type",
        choices=("float32", "uint8"),
        default="float32",
        help="uint8: the input is a camera frame [N, H, W, 3], normalized in the graph (default float32 [N, 3, H, W])",
    )
    group.add_argument("--softmax", action="store_true", help="probabilities as output")
    group.add_argument("--topk", type=positive, metavar="K", help="the K best classes as outputs scores and indices")


def _add_precision_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("precision and target")
    group.add_argument("--int8", action="store_true", help="write model.int8.onnx (Q/DQ); needs --calib")
    group.add_argument("--fp16", action="store_true", help="write model.fp16.onnx (typed, float32 inputs and outputs)")
    group.add_argument("--calib", type=Path, metavar="DIR", help="calibration images, searched recursively")
    group.add_argument("--num-calib", type=positive, default=512, metavar="N", help="images used of it (default 512)")
    group.add_argument(
        "--calib-cache",
        metavar="DIR|off",
        help="where calibrations are kept, by content (default: the user's cache folder, or $RESNET_EXPORT_CACHE)",
    )
    group.add_argument(
        "--calib-provider",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the float model runs to calibrate; what is measured is reduced there too (default cpu)",
    )
    group.add_argument(
        "--method",
        type=_method,
        default=method_from_name("mse"),
        metavar="|".join(METHODS),
        help="how ranges are chosen (default mse)",
    )
    group.add_argument(
        "--effort",
        type=int,
        choices=EFFORTS,
        default=DEFAULT_EFFORT,
        help="0: ranges only; 1: also scale channels and correct biases (default); 2: also second-order rounding, slow",
    )
    group.add_argument(
        "--target",
        type=_target,
        default=TARGETS["tensorrt"],
        metavar="|".join(TARGETS),
        help="where the files must load; decides opset and IR version (default tensorrt)",
    )
    group.add_argument("--opset", type=positive, metavar="N", help="ONNX opset (default: the target's)")
    group.add_argument(
        "--batch",
        type=batch_range,
        default=DEFAULT_BATCH,
        metavar="MIN,OPT,MAX",
        help="batch sizes that engines are built for (default 1,8,32)",
    )
    group.add_argument("--engine", action="store_true", help="then build the TensorRT engine of the lowest precision")
    group.add_argument("--rtx", action="store_true", help="with --engine: TensorRT-RTX, which needs no GPU to build")
    group.add_argument(
        "--dla", action="store_true", help="also write what build --dla needs: for the DLA of Orin, to TensorRT 10.7"
    )
    group.add_argument(
        "--val", type=Path, metavar="DIR", help="labelled images, one folder per class, to measure top-1"
    )
    group.add_argument("--num-val", type=positive, metavar="N", help="images used of it (default: all)")
    group.add_argument(
        "--max-top1-drop",
        type=percentage_points,
        metavar="PP",
        help="INT8 may lose so many percentage points of top-1 on --val: the worst layers stay in float until it holds",
    )
    group.add_argument(
        "--min-agreement",
        type=share,
        metavar="SHARE",
        help="the same without labels: share of images on which INT8 must answer as FP32 does, such as 0.99",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, metavar="DIR", help="bundle folder (default ./MODEL-PRECISION/)")
    group.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the bundle with this private key (Ed25519, PEM): manifest.sig"
    )
    group.add_argument("--force", action="store_true", help="replace an existing bundle; accept fewer than 32 images")
    group.add_argument("--json", action="store_true", help="print the report as JSON instead of text")
    group.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")


def _method(text: str) -> Method:
    try:
        return method_from_name(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def _target(text: str) -> Target:
    try:
        return target_from_name(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
