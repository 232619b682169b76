"""The INT8 step of the main job: calibration images through `calibration.quantize_model`, and what came out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.dialect import Dialect
from calibration.effort import EFFORTS
from calibration.quantize_model import QuantizationResult, insert_and_refine, scale_and_calibrate
from calibration.sample_images import SEED, image_list_sha256
from exporter.cli.accuracy_budget import BudgetJob, BudgetOutcome
from exporter.cli.arguments import ExportOptions
from exporter.cli.choose_images import ChosenImages, ClassIndex
from exporter.cli.export_job import stream
from exporter.cli.terminal import Terminal
from runtimes.ort import OrtRuntime

if TYPE_CHECKING:
    from exporter.exported_model import ExportedModel


def quantize_images(
    options: ExportOptions,
    exported: ExportedModel,
    images: ChosenImages,
    classes: ClassIndex | None,
    terminal: Terminal,
) -> tuple[QuantizationResult, BudgetOutcome | None]:
    """Return the INT8 model of `exported`, calibrated with the images of `--calib`, and what became of its budget.

    Raises:
        AccuracyBudgetError: If a budget was given and cannot hold.
    """
    assert options.calib is not None  # parse_arguments refuses --int8 without it
    used: list[Path] = []

    def arrays() -> Iterator[NDArray[np.float32]]:
        for batch in stream("calibrating", images.calibration, exported.preprocessing, images.allowed_bad, terminal):
            used.extend(batch.paths)
            yield batch.images

    calibrated = scale_and_calibrate(
        exported.onnx,
        arrays(),
        open_runtime=OrtRuntime,
        method=options.method,
        dialect=Dialect(options.target.dialect),
        effort=EFFORTS[options.effort],
    )
    result = insert_and_refine(
        calibrated,
        open_exact=partial(OrtRuntime, exact_qdq=True),
        track_layers=lambda layers, total: terminal.track("refining", layers, total=total),
    )
    outcome = None
    if options.budget is not None:
        outcome = BudgetJob(options, exported, calibrated, images, classes, terminal).hold(result)
        result = outcome.result
    table = replace(result.table, image_list_sha256=image_list_sha256(options.calib, used), seed=SEED)
    _tell(result, terminal)
    return replace(result, table=table), outcome


def _tell(result: QuantizationResult, terminal: Terminal) -> None:
    table, placement = result.table, result.quantized.placement
    terminal.done(
        f"{table.num_images} images calibrated {len(table.ranges)} tensors by {table.method['name']}; "
        f"{len(placement.weights)} weights in INT8"
    )
    if result.num_groups or result.refinement:
        rounded = sum(layer.num_rounded for layer in result.refinement)
        terminal.done(
            f"on {result.num_sample} of the images: channels of {result.num_groups} groups of "
            f"tensors scaled, {len(result.refinement)} layers' biases corrected"
            + (f", {rounded:,} weights rounded the other way" if rounded else "")
        )
    if table.dialect is Dialect.ONNXRUNTIME:
        terminal.done(
            f"for ONNX Runtime: UINT8 activations, {len(placement.biases)} biases in INT32, Adds and pools too"
        )
    else:
        adds = len(placement.residual_adds)
        terminal.done(f"{adds} of {placement.num_adds} residual Adds quantized on one side, the shortcut's")
    for reason in placement.skipped:
        terminal.warn(f"stays in float: {reason}")
