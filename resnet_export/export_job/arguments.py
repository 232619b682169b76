"""The command line as a checked value. Imports no framework: `--help` must be quick."""

from __future__ import annotations

import argparse
import textwrap
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from calibration.methods.dialect import ZeroPoints
from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS
from calibration.methods.method import METHODS, method_from_name
from exporter.errors import OptionError
from exporter.models.loaded_model import DEFAULT_WEIGHTS, HEAD_ACTIVATIONS
from exporter.models.model_names import FAMILIES
from exporter.preprocessing.options import PreprocessingOptions
from exporter.target import TARGETS
from resnet_export.console.image_options import add_preprocessing_options, add_val_options
from resnet_export.console.option_types import batch_range, by_name, names, percentage_points, positive, share
from resnet_export.export_job.context.options import CALIB_PROVIDERS, DEFAULT_NUM_CALIB, INPUT_TYPES, ExportOptions
from resnet_export.images.gather import gathered_source, gathered_val
from runtimes.bundle.manifest import DEFAULT_BATCH

_DESCRIPTION = """\
Export a ResNet from PyTorch to a bundle of ONNX files (FP32, FP16, INT8) with proof that they answer the same.

MODEL is a name (resnet50, ...; resnet-export models lists them) of one of the families
{families};
torchvision:NAME or timm:NAME for any other of theirs, timm:hf-hub:ORG/NAME, your own code as package.module:callable,
or auto, which reads the architecture off --weights FILE; or FILE.onnx, exported elsewhere in float32.
"""

_EPILOG = "exit codes: 0 done, 1 the export does not answer like PyTorch or misses its accuracy budget, 2 wrong use or "
_EPILOG += "bad input, 130 interrupted"


@dataclass(frozen=True, slots=True)
class ExportArguments:
    """The main job's options, and how its result is printed."""

    options: ExportOptions
    json: bool
    quiet: bool


def export_arguments(arguments: argparse.Namespace, stack: ExitStack) -> ExportArguments:
    """Return the options that the words say; images that lie in no one folder are gathered until `stack` is left.

    Raises:
        OptionError: If options contradict each other.
    """
    words = dict(vars(arguments))
    json, quiet = words.pop("json"), words.pop("quiet")
    for name in ("verbose", "verb"):
        words.pop(name)
    if quiet and json:
        raise OptionError("--quiet and --json contradict each other: --json prints the report")
    said = PreprocessingOptions(**{option.name: words.pop(option.name) for option in fields(PreprocessingOptions)})
    words["val"] = gathered_val(words["val"], words.pop("val_label_file"), stack)
    if words["calib"] is not None:
        words["calib"] = stack.enter_context(gathered_source(words["calib"]))
    return ExportArguments(ExportOptions(preprocessing=said, **words), json, quiet)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    families = textwrap.fill(", ".join(FAMILIES), width=110, initial_indent="  ", subsequent_indent="  ")
    parser.description = _DESCRIPTION.format(families=families)
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, without MODEL."""
    _add_model_options(parser)
    _add_graph_options(parser)
    _add_precision_options(parser)
    _add_output_options(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
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
    add_preprocessing_options(group)


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
        "--outputs",
        type=names,
        default=(),
        metavar="NAME,...",
        help="which outputs of a model that gives several (keys of a dict, places in a tuple, names in an ONNX file)",
    )
    group.add_argument(
        "--input",
        dest="input_type",
        choices=INPUT_TYPES,
        default="float32",
        help="uint8: the input is a camera frame [N, H, W, 3], normalized in the graph (default float32 [N, 3, H, W])",
    )
    group.add_argument("--softmax", action="store_true", help="probabilities as output")
    group.add_argument("--topk", type=positive, metavar="K", help="the K best classes as outputs scores and indices")


def _add_precision_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("precision and target")
    group.add_argument("--int8", action="store_true", help="write model.int8.onnx (Q/DQ); needs --calib")
    group.add_argument("--fp16", action="store_true", help="write model.fp16.onnx (typed, float32 inputs and outputs)")
    _add_calibration_options(group)
    _add_target_options(group)
    _add_accuracy_options(group)


def _add_calibration_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calib",
        action="append",
        metavar="DIR|...",
        help="calibration images: a folder, searched recursively; 'a glob'; a list (.txt, .csv), .tar, .npy, .npz, "
        ".parquet, or a dataset saved by Hugging Face's library; may be given several times",
    )
    group.add_argument(
        "--num-calib", type=positive, default=DEFAULT_NUM_CALIB, metavar="N", help="images used of it (default 512)"
    )
    group.add_argument(
        "--calib-cache",
        metavar="DIR|off",
        help="where calibrations are kept, by content (default: the user's cache folder, or $RESNET_EXPORT_CACHE)",
    )
    group.add_argument(
        "--calib-provider",
        choices=CALIB_PROVIDERS,
        default="cpu",
        help="where the float model runs to calibrate; what is measured is reduced there too (default cpu)",
    )
    group.add_argument(
        "--method",
        type=by_name(method_from_name),
        default=method_from_name("mse"),
        metavar="|".join(METHODS),
        help="how ranges are chosen (default mse)",
    )
    group.add_argument(
        "--effort",
        type=int,
        choices=EFFORTS,
        default=DEFAULT_EFFORT,
        help="0: ranges only; 1: also scale channels, round weights for what layers read, correct biases (default); "
        "2: the same for the widest layers too, slow, and --zero-points pads",
    )
    group.add_argument(
        "--zero-points",
        choices=[kind.value for kind in ZeroPoints],
        help="what takes those of activations, of which TensorRT has none. none: they are symmetric (effort 0); "
        "biases: where no layer pads (effort 1); pads: everywhere, layers that pad read a Pad, which costs time when "
        "the network runs (effort 2)",
    )


def _add_target_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target",
        type=by_name(TARGETS.named),
        default=TARGETS["tensorrt"],
        metavar="|".join(TARGETS),
        help="where the files must load; decides opset and IR version (default tensorrt; JetPack 6.0, which has "
        "TensorRT 8.6, needs jetpack5)",
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


def _add_accuracy_options(group: argparse._ArgumentGroup) -> None:
    add_val_options(
        group,
        "labeled images, one folder per class, or as --calib; without labels agreement and SQNR are measured only",
    )
    group.add_argument(
        "--measure-on",
        type=names,
        default=(),
        metavar="RUNTIME,...",
        help="a row of the table for other runtimes too (openvino, cuda, ...): the file that each would run",
    )
    group.add_argument(
        "--keep-float",
        type=names,
        default=(),
        metavar="NAME,...",
        help="layers or blocks that stay in float, as PyTorch names them (layer4.1.conv2, layer4.1); sensitivity ranks",
    )
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
