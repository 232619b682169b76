"""`resnet-export build BUNDLE`: the bundle's ONNX file to a TensorRT engine, on the machine that will run it.

Needs neither torch nor onnx: on a Jetson, JetPack's TensorRT and NumPy are enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.engines.build_options import HARDWARE_COMPATIBILITY, BuildOptions
from exporter.errors import ExportError, OptionError
from exporter.target import MIN_FLOAT16_SCALE_OPSET
from resnet_export.build_job.build_step import EngineRequest, check_min_int8, engine_report, have_engine
from resnet_export.console.option_types import batch_range, capabilities, positive, share
from resnet_export.console.put_json import put_json
from resnet_export.console.terminal import Terminal
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import Manifest, load_manifest
from runtimes.bundle.precision import LOWEST_FIRST
from runtimes.errors import BundleError


def run(arguments: argparse.Namespace) -> int:
    """Build or reuse an engine; return 0, or raise what the build raises."""
    if arguments.compute_capability and not arguments.rtx:
        raise OptionError("--compute-capability needs --rtx: TensorRT builds for the GPU at hand")
    manifest = load_manifest(arguments.bundle, public_key=arguments.public_key)
    try:
        options = BuildOptions(
            batch=arguments.batch or manifest.batch,
            workspace_mib=arguments.workspace,
            opt_level=arguments.opt_level,
            hardware_compat=arguments.hardware_compat,
            version_compat=arguments.version_compat,
            compute_capabilities=arguments.compute_capability or (),
            dla_core=arguments.dla,
            gpu_fallback=arguments.gpu_fallback,
        )
    except ValueError as err:
        raise OptionError(str(err)) from err
    flavor = "rtx" if arguments.rtx else "tensorrt"
    precision = _precision(arguments, manifest)
    request = EngineRequest(arguments.bundle, precision, flavor, options, arguments.output, arguments.timing_cache)
    outcome = have_engine(request, Terminal(quiet=arguments.quiet))
    if arguments.json:
        put_json(engine_report(outcome))
    if arguments.min_int8_layers is not None:
        check_min_int8(outcome, arguments.min_int8_layers)
    return 0


def _precision(arguments: argparse.Namespace, manifest: Manifest) -> str:
    """Return the precision asked for; by default the lowest that the bundle holds.

    `--int8` alone takes the INT8 file with FP16 around it only where there is no other.
    """
    asked = "-".join(word for word in ("fp32", "int8", "fp16") if getattr(arguments, word))
    if not asked:
        return lowest_precision(arguments.bundle, manifest)
    if asked not in MODEL_FILES:
        raise ExportError("--fp32 goes with neither --int8 nor --fp16")
    if asked == "int8-fp16" and MODEL_FILES[asked] not in manifest.files and manifest.opset < MIN_FLOAT16_SCALE_OPSET:
        return "int8"  # TensorRT 8 is allowed FP16 by flag wherever the file is not quantized
    return asked


def lowest_precision(bundle: Path, manifest: Manifest) -> str:
    """Return the lowest precision that a bundle holds.

    Raises:
        BundleError: If it holds no model.
    """
    held = [name for name in LOWEST_FIRST if name in manifest.precisions]
    if not held:
        raise BundleError(f"{bundle} holds no {MODEL_FILES['fp32']}; export it anew")
    return held[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Build the TensorRT engine of a bundle, or reuse the one there when nothing changed."
    parser.epilog = "An engine runs on the TensorRT version, GPU and system it was built on: build on the device."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument("--int8", action="store_true", help=f"from {MODEL_FILES['int8']}")
    parser.add_argument(
        "--fp16", action="store_true", help=f"from {MODEL_FILES['fp16']}; with --int8 {MODEL_FILES['int8-fp16']}"
    )
    parser.add_argument("--fp32", action="store_true", help=f"from {MODEL_FILES['fp32']}")
    parser.add_argument(
        "--batch", type=batch_range, metavar="MIN,OPT,MAX|N", help="batch sizes (default: the bundle's)"
    )
    parser.add_argument("--workspace", type=positive, metavar="MIB", help="limit of scratch memory in MiB")
    parser.add_argument("--opt-level", type=int, metavar="0-5", help="optimization level (default: TensorRT's, 3)")
    parser.add_argument("--hardware-compat", choices=tuple(HARDWARE_COMPATIBILITY), help="let other GPUs load it too")
    parser.add_argument("--version-compat", action="store_true", help="let later TensorRT versions load it too")
    parser.add_argument(
        "--timing-cache",
        type=lambda text: False if text == "off" else Path(text),
        default=True,
        metavar="FILE|off",
        help="kernel timings of earlier builds (default: a file per TensorRT version and GPU in ~/.cache)",
    )
    parser.add_argument("--rtx", action="store_true", help="TensorRT-RTX, which needs no GPU to build")
    parser.add_argument(
        "--compute-capability", type=capabilities, metavar="8.6,8.9", help="with --rtx: GPUs to build for"
    )
    parser.add_argument(
        "--dla", type=int, metavar="CORE", help="for this DLA core of an Orin (TensorRT 8.5 to 10.7); needs one --batch"
    )
    parser.add_argument(
        "--gpu-fallback", action="store_true", help="with --dla: layers that the DLA cannot run may run on the GPU"
    )
    parser.add_argument(
        "--min-int8-layers",
        type=share,
        metavar="SHARE",
        help="exit 1 unless this share of the convolutions and matrix products reads INT8 (1 for all)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="engine file (default: beside the ONNX file)")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="the bundle must be signed by its owner")
    parser.add_argument("--json", action="store_true", help="print what was built as JSON")
