"""`resnet-export build BUNDLE`: the bundle's ONNX file to a TensorRT engine, on the machine that will run it.

Needs neither torch nor onnx: on a Jetson, JetPack's TensorRT and NumPy are enough.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.engines.build_options import HARDWARE_COMPATIBILITY, BuildOptions
from exporter.engines.bundle_engine import EngineOutcome, engine_from_bundle
from exporter.errors import ExportError
from exporter.target import MIN_FLOAT16_SCALE_OPSET
from resnet_export.console.option_types import batch_range, capabilities, positive
from resnet_export.console.terminal import Terminal
from runtimes.bundle.manifest import Manifest, load_manifest
from runtimes.bundle.precision import LOWEST_FIRST, MODEL_FILES
from runtimes.errors import BundleError
from runtimes.trt.engine_layers import REFORMAT, EngineLayers
from runtimes.trt.layer_times import EngineTimes

NUM_SLOWEST = 5
"""How many of the slowest layers are named."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One engine to have: which bundle, which precision, which library, how."""

    bundle: Path
    precision: str
    flavor: str
    options: BuildOptions
    output: Path | None = None
    timing_cache: bool | Path = True


def run_build(words: Sequence[str]) -> int:
    """Build or reuse an engine; return 0, or raise what the build raises."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.compute_capability and not arguments.rtx:
        parser.error("--compute-capability needs --rtx: TensorRT builds for the GPU at hand")
    manifest = load_manifest(arguments.bundle, public_key=arguments.public_key)
    try:
        options = BuildOptions(
            batch=arguments.batch or manifest.batch,
            workspace_mib=arguments.workspace,
            opt_level=arguments.opt_level,
            hardware_compat=arguments.hardware_compat,
            version_compat=arguments.version_compat,
            strip_weights=arguments.strip_weights,
            compute_capabilities=arguments.compute_capability or (),
            dla_core=arguments.dla,
            gpu_fallback=arguments.gpu_fallback,
        )
    except ValueError as err:
        parser.error(str(err))
    flavor = "rtx" if arguments.rtx else "tensorrt"
    precision = _precision(arguments, manifest)
    request = EngineRequest(arguments.bundle, precision, flavor, options, arguments.output, arguments.timing_cache)
    terminal = Terminal(quiet=arguments.quiet)
    outcome = have_engine(request, terminal)
    if arguments.json:
        print(json.dumps(engine_report(outcome), indent=2))
    return 0


def _precision(arguments: argparse.Namespace, manifest: Manifest) -> str:
    """Return the precision asked for; by default the lowest that the bundle holds.

    `--int8` alone takes the INT8 file with FP16 around it only where there is no other.
    """
    asked = "-".join(word for word in ("fp32", "int8", "fp16") if getattr(arguments, word))
    if not asked:
        held = [name for name in LOWEST_FIRST if MODEL_FILES[name] in manifest.files]
        if not held:
            raise BundleError(f"{arguments.bundle} holds no {MODEL_FILES['fp32']}; export it anew")
        return held[0]
    if asked not in MODEL_FILES:
        raise ExportError("--fp32 goes with neither --int8 nor --fp16")
    if asked == "int8-fp16" and MODEL_FILES[asked] not in manifest.files and manifest.opset < MIN_FLOAT16_SCALE_OPSET:
        return "int8"  # TensorRT 8 is allowed FP16 by flag wherever the file is not quantized
    return asked


def have_engine(request: EngineRequest, terminal: Terminal) -> EngineOutcome:
    """Build or reuse one engine, telling what happens."""
    with terminal.steps(f"building {request.precision} engine with {request.flavor}") as progress:
        outcome = engine_from_bundle(
            request.bundle,
            precision=request.precision,
            flavor=request.flavor,
            options=request.options,
            output=request.output,
            progress=progress,
            timing_cache=request.timing_cache,
        )
    sidecar = outcome.sidecar
    size = f"{sidecar.engine_size_bytes / 1e6:.1f} MB"
    made = f"{sidecar.facts.flavor} {sidecar.facts.tensorrt_version}"
    if outcome.reused:
        terminal.done(f"engine reused: {outcome.path} ({size}, {made}): {outcome.reason}")
    else:
        terminal.done(f"engine built: {outcome.path} ({size}, {made}, {sidecar.build_seconds:.1f} s): {outcome.reason}")
        for warning in sidecar.warnings:
            terminal.warn(f"{sidecar.facts.flavor}: {warning}")
    _tell_placement(outcome, terminal)
    _tell_layers(outcome, terminal)
    return outcome


def _tell_placement(outcome: EngineOutcome, terminal: Terminal) -> None:
    """Tell what a DLA computes, and what falls back to the GPU, by name."""
    if outcome.placement is None:
        return
    core = outcome.sidecar.facts.flags["dla_core"]
    on_dla, on_gpu = outcome.placement.on_dla, outcome.placement.on_gpu
    terminal.done(f"DLA core {core}: {len(on_dla)} of {len(on_dla) + len(on_gpu)} layers, as TensorRT foresaw it")
    if on_gpu:
        terminal.warn(f"{len(on_gpu)} layers on the GPU instead of the DLA: {', '.join(on_gpu)}")


def _tell_layers(outcome: EngineOutcome, terminal: Terminal) -> None:
    """Tell how many layers run in which precision, and which convolutions fell back."""
    if outcome.layers is None:
        terminal.done(f"layers not counted: {outcome.why_no_layers}")
        return
    counts = ", ".join(f"{number} in {precision}" for precision, number in outcome.layers.count().items())
    terminal.done(f"layers of the engine: {counts}; {outcome.layers.num_reformats} reformats")
    precision = outcome.sidecar.facts.precision.partition("-")[0].upper()
    if fallen := outcome.layers.not_in(precision):
        named = ", ".join(f"{' + '.join(layer.nodes)} ({layer.precision})" for layer in fallen[:8])
        more = f" and {len(fallen) - 8} more" if len(fallen) > 8 else ""
        terminal.warn(f"{len(fallen)} convolutions or matrix products are not in {precision}: {named}{more}")
    _tell_times(outcome, outcome.layers, terminal)


def _tell_times(outcome: EngineOutcome, layers: EngineLayers, terminal: Terminal) -> None:
    """Tell how much of the time goes where, and which layers are slowest."""
    times = outcome.times
    if times is None:
        terminal.done(f"layers not timed: {outcome.why_no_times}")
        return
    total = times.total_ms or 1.0
    shares = ", ".join(
        f"{spent / total:.0%} {'reformats' if word == REFORMAT else f'in {word}'}"
        for word, spent in times.by_precision(layers).items()
    )
    terminal.done(
        f"time in the layers at batch {times.batch}: {shares} of {total:.3g} ms (layer by layer, median of "
        f"{times.num_runs} runs; the engine alone is faster)"
    )
    slowest = ", ".join(
        f"{' + '.join(layer.nodes)} {spent:.3g} ms ({layer.precision})"
        for layer, spent in times.slowest(layers, NUM_SLOWEST)
    )
    terminal.done(f"slowest: {slowest}")


def engine_report(outcome: EngineOutcome) -> dict[str, Any]:
    """Return an outcome as JSON holds it."""
    return {
        "engine": str(outcome.path),
        "reused": outcome.reused,
        "reason": outcome.reason,
        "sidecar": outcome.sidecar.to_json(),
        "dla": None
        if outcome.placement is None
        else {"on_dla": list(outcome.placement.on_dla), "on_gpu": list(outcome.placement.on_gpu)},
        "times": outcome.why_no_times if outcome.times is None else _times_report(outcome.times, outcome.layers),
        "layers": outcome.why_no_layers if outcome.layers is None else outcome.layers.to_json(),
    }


def _times_report(times: EngineTimes, layers: EngineLayers | None) -> dict[str, Any]:
    content = times.to_json()
    return content if layers is None else {**content, "ms_by_precision": times.by_precision(layers)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-export build",
        description="Build the TensorRT engine of a bundle, or reuse the one there when nothing changed.",
        epilog="An engine runs on the TensorRT version, GPU and system it was built on: build on the device.",
        allow_abbrev=False,
    )
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
    parser.add_argument("--strip-weights", action="store_true", help="write the plan without weights")
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
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="engine file (default: beside the ONNX file)")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="the bundle must be signed by its owner")
    parser.add_argument("--json", action="store_true", help="print what was built as JSON")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    return parser
