"""Write the files that `--dla` adds to the bundle, from which a Jetson builds for its DLA with neither torch nor onnx.

They are made here and not on the device because taking Q/DQ apart needs onnx, and the ranges that a DLA wants besides
need the calibration images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.qdq.implicit_quantization import StrippedModel, complete_scales, simulate_dla, strip_qdq
from exporter.errors import ExportCheckError, ExportError
from exporter.passes.lower_global_pool import average_pool_from_global
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.artifacts import Artifacts, DlaFiles
from resnet_export.export_job.context.run import ExportRun
from runtimes.bundle.file_names import DLA_FILES, MODEL_FILES
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.protocol import Array, outputs_of
from runtimes.trt.calibration_cache import cache_from_scales

if TYPE_CHECKING:
    from onnx import ModelProto


MAX_WINDOW = 8
"""Largest window of a pool on a DLA. Source: NvInfer.h 10.3, DLA restrictions."""

MAX_RELATIVE_DIFFERENCE = 1e-5
"""Of the largest |output|, between global pools and windows: both are float32 sums of the same numbers."""

MAX_SCALE_DEVIATION = 1e-5
"""Relative; TensorRT's weight scales differ from ours by a rounding, unless a channel does not use its range."""

WRITTEN_FOR = "10.3.0"
"""TensorRT version in the cache's first line, of JetPack 6; the builder puts its own there."""


def dla_files(run: ExportRun, artifacts: Artifacts) -> DlaFiles:
    """Return the DLA's files, each checked against the bundle's file that it was made of.

    Raises:
        ExportError: If a global pool's window is not known.
        ExportCheckError: If a file answers otherwise.
    """
    reporter = run.reporter
    given: Array = run.golden
    if artifacts.finish.uint8_input:
        given = pixels_of(artifacts.exported.preprocessing, run.golden)
    models: dict[str, ModelProto] = {}
    windows: dict[str, tuple[int, int]] = {}
    if run.options.fp16:
        models[DLA_FILES["fp16"]] = _pooled(artifacts.finished[MODEL_FILES["fp32"]], windows)
        _check("FP32 file", artifacts.finished[MODEL_FILES["fp32"]], models[DLA_FILES["fp16"]], given)
    cache, simulation, report = None, None, {}
    if artifacts.quantized is not None:
        with reporter.working("taking the scales out for the DLA"):
            finished = strip_qdq(_pooled(artifacts.finished[MODEL_FILES["int8"]], windows))
            stripped = strip_qdq(_pooled(artifacts.quantized.model, windows))
        models[DLA_FILES["int8"]] = finished.model
        written = simulate_dla(finished, finished.scales, as_in_file=True)
        _check("INT8 file", artifacts.finished[MODEL_FILES["int8"]], written, given)
        arrays = (batch.images for batch in run.batches("ranges for the DLA", run.images.calibration))
        scales = complete_scales(stripped, arrays, open_runtime=OrtRuntime, method=run.options.method)
        cache, simulation = cache_from_scales(scales, WRITTEN_FOR), simulate_dla(stripped, scales)
        report = _tell_scales(stripped, scales, reporter)
    _tell_windows(windows, reporter)
    return DlaFiles(models, cache, simulation, {"files": sorted(models), "windows": windows, **report})


def _pooled(model: ModelProto, windows: dict[str, tuple[int, int]]) -> ModelProto:
    try:
        pooled = average_pool_from_global(model)
    except ValueError as err:
        raise ExportError(f"--dla: {err}; export without --dla") from err
    windows.update(pooled.windows)
    return pooled.model


def _check(what: str, before: ModelProto, after: ModelProto, given: Array) -> None:
    """Raise unless both answer alike.

    The sum of a pool may be rounded in another order, and so a value fall on the other side of a rounding to INT8: then
    one step of that tensor is off. So for INT8 the allowance is for the mean, not for the largest.
    """
    expected, got = (_answers(model, given) for model in (before, after))
    is_int8 = any(node.op_type == "QuantizeLinear" for node in before.graph.node)
    for name, values in expected.items():
        difference = np.abs(values.astype(np.float64) - got[name])
        off = float(difference.mean() if is_int8 else difference.max()) / max(float(np.abs(values).max()), 1e-30)
        if not off <= (1e-3 if is_int8 else MAX_RELATIVE_DIFFERENCE):
            raise ExportCheckError(
                f"--dla: output {name!r} of the {what} for the DLA is off by {off:.2g} of the largest value; nothing "
                "was written"
            )


def _answers(model: ModelProto, given: Array) -> dict[str, Array]:
    with OrtRuntime(model, exact_qdq=True) as runtime:
        return outputs_of(runtime, given)


def _tell_scales(stripped: StrippedModel, scales: Mapping[str, float], reporter: Reporter) -> dict[str, Any]:
    reporter.done(
        f"for the DLA: Q/DQ taken out, {len(stripped.scales)} of its scales and {len(scales) - len(stripped.scales)} "
        "for tensors between them in a calibration cache"
    )
    off = {name: scale.largest_deviation for name, scale in stripped.weights.items()}
    worst = max(off, key=lambda name: off[name])
    if off[worst] > MAX_SCALE_DEVIATION:
        number = sum(value > MAX_SCALE_DEVIATION for value in off.values())
        reporter.warn(
            f"for the DLA TensorRT chooses weight scales itself, max|w|/127: in {number} of {len(off)} weights that "
            f"differs from ours, most in {worst}, by {off[worst]:.2%}; the row of the table counts that in"
        )
    named = {name for node in stripped.model.graph.node for name in node.output}
    return {
        "scales_of_the_int8_file": len(stripped.scales),
        "scales": len(scales),
        "without_scale": sorted(named - set(scales)),
        "largest_weight_scale_deviation": off[worst],
    }


def _tell_windows(windows: Mapping[str, tuple[int, int]], reporter: Reporter) -> None:
    for name, (height, width) in windows.items():
        if max(height, width) > MAX_WINDOW:
            reporter.warn(
                f"{name} pools {height} x {width}, a DLA at most {MAX_WINDOW} x {MAX_WINDOW}: it runs on the GPU, with "
                "build --gpu-fallback; a smaller --input-size keeps it on the DLA"
            )
