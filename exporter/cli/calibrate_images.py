"""The calibration step of the main job: from the cache or from images, judged either way, and what the report says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.calibration_cache import CacheKey, CalibrationCache, Hit, calibration_key
from calibration.calibration_table import CalibrationTable
from calibration.collect_ranges import calibrate
from calibration.convergence import TOLERANCES, images_until_settled, still_moving, summary
from calibration.judge_input import judge_input
from calibration.quantizability import Finding, lint_activations, lint_lines, lint_weights, to_json
from calibration.sample_images import SEED, image_list_sha256
from exporter.cli.arguments import ExportOptions
from exporter.cli.choose_images import ChosenImages
from exporter.cli.terminal import Terminal
from exporter.exported_model import ExportedModel
from runtimes.ort import OrtRuntime
from runtimes.preprocessing import Preprocessing
from runtimes.user_cache import user_cache_folder

SETTLED = max(TOLERANCES)
"""The tolerance that the command tells; `report.json` has them all."""


def calibrated_table(
    options: ExportOptions, exported: ExportedModel, images: ChosenImages, terminal: Terminal
) -> CalibrationTable:
    """Return the table, computed or from the cache, and tell what is doubtful about it.

    Raises:
        CalibrationError: If nothing can be quantized or a tensor holds NaN or Inf.
    """
    assert options.calib is not None  # parse_arguments refuses --int8 without it
    _tell(lint_weights(exported.onnx), terminal)
    cache = _cache(options)
    if cache is None:
        table = _calibrate(options, exported, images, terminal)
    else:
        table = _cached(cache, options, exported, images, terminal)
    if table.observed is not None:
        for warning in judge_input(table.observed.input, exported.loaded.preprocessing):
            terminal.warn(str(warning))
        convergence = table.observed.convergence
        if moving := still_moving(convergence):
            terminal.warn(str(moving))
        elif settled := images_until_settled(convergence, SETTLED):
            terminal.done(f"after {settled} of {table.num_images} images no scale moved by more than {SETTLED:.0%}")
    _tell(lint_activations(exported.onnx, table), terminal)
    return table


def calibration_report(table: CalibrationTable, exported: ExportedModel) -> dict[str, Any]:
    """Return what `report.json` says about the calibration."""
    observed = table.observed
    findings = lint_weights(exported.onnx) + lint_activations(exported.onnx, table)
    preprocessing: Preprocessing = exported.loaded.preprocessing
    return {
        "num_images": table.num_images,
        "convergence": None if observed is None else summary(observed.convergence),
        "input_warnings": []
        if observed is None
        else [warning.to_json() for warning in judge_input(observed.input, preprocessing)],
        "quantizability": to_json(findings),
    }


def _tell(findings: tuple[Finding, ...], terminal: Terminal) -> None:
    for line in lint_lines(findings):
        terminal.warn(f"hard to quantize: {line}")


def _cache(options: ExportOptions) -> CalibrationCache | None:
    if options.calib_cache == "off":
        return None
    return CalibrationCache(user_cache_folder() if options.calib_cache is None else Path(options.calib_cache))


def _cached(
    cache: CalibrationCache, options: ExportOptions, exported: ExportedModel, images: ChosenImages, terminal: Terminal
) -> CalibrationTable:
    assert options.calib is not None
    with terminal.working("looking for a stored calibration"):
        key = calibration_key(
            exported.onnx,
            exported.loaded.preprocessing,
            image_list_sha256(options.calib, images.calibration),
            options.method,
            options.target.name,
        )
        found = cache.look_up(options.model, key)
    if isinstance(found, Hit):
        terminal.done(f"calibration cache: hit, {found.path}")
        if unread := len(images.calibration) - found.table.num_images:
            terminal.warn(
                f"calibrating: {unread} of {len(images.calibration)} images could not be read when it was made"
            )
        return found.table
    if found.is_corrupt:
        terminal.warn(f"calibration cache: {found.reason}")
    else:
        terminal.done(f"calibration cache: miss, {found.reason}")
    table = _calibrate(options, exported, images, terminal)
    _store(cache, options.model, key, table, terminal)
    return table


def _store(cache: CalibrationCache, model: str, key: CacheKey, table: CalibrationTable, terminal: Terminal) -> None:
    """Keep the table; a disk that refuses is a warning, the bundle is what matters."""
    try:
        cache.store(model, key, table)
    except OSError as err:
        terminal.warn(f"calibration cache: {cache.folder} cannot be written: {err}; --calib-cache names another")


def _calibrate(
    options: ExportOptions, exported: ExportedModel, images: ChosenImages, terminal: Terminal
) -> CalibrationTable:
    from exporter.cli.export_job import stream

    assert options.calib is not None
    used: list[Path] = []

    def arrays() -> Iterator[NDArray[np.float32]]:
        preprocessing = exported.loaded.preprocessing
        for batch in stream("calibrating", images.calibration, preprocessing, images.allowed_bad, terminal):
            used.extend(batch.paths)
            yield batch.images

    measured = calibrate(exported.onnx, arrays(), open_runtime=OrtRuntime, method=options.method)
    return replace(measured, image_list_sha256=image_list_sha256(options.calib, used), seed=SEED)
