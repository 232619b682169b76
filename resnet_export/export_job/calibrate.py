"""The calibration step of the main job: from the cache or from images, judged either way, and what the report says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.diagnostics.quantizability import TensorFinding, lint_activations, lint_lines, lint_weights, to_json
from calibration.methods.dialect import Dialect
from calibration.observers.convergence import TOLERANCES, images_until_settled, still_moving, summary
from calibration.observers.judge_input import judge_input
from calibration.observers.observe_batches import OpenRuntime, SeenBatch
from calibration.observers.sample_images import SEED, image_list_sha256
from calibration.ranges.calibration_cache import CalibrationCache, Hit, calibration_key
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import table_of
from exporter.tracing.export import ExportedModel
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.context.run import ExportRun
from runtimes.counted import counted
from runtimes.io.cache_dir import user_cache_folder
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.providers import CUDA_PROVIDER, check_machine, prepare_libraries
from runtimes.ort.session import CPU_PROVIDER

SETTLED = max(TOLERANCES)
"""The tolerance that the command tells; `report.json` has them all."""


def calibration_runtime(provider: str) -> OpenRuntime:
    """Return what opens the float model for calibration.

    On "cuda" without TF32, whose 10 bits would move the ranges. The few nodes on integers that place the sample may run
    on the CPU; the provider itself must load.

    Raises:
        ProviderUnavailableError: If there is no usable GPU.
    """
    if provider == "cpu":
        return OrtRuntime
    check_machine(provider)
    prepare_libraries(provider)
    return partial(OrtRuntime, providers=(CUDA_PROVIDER, CPU_PROVIDER), provider_options=({"use_tf32": "0"}, {}))


class CachedCalibration:
    """Gives the table of a model, from the cache where it is there, else from the images, which go to `used`."""

    def __init__(self, run: ExportRun, used: list[Path]) -> None:
        assert run.options.calib is not None  # ExportOptions refuses int8 without it
        self._options = run.options
        self._effort = run.options.steps
        self._root = run.options.calib.root
        self._preprocessing = run.loaded.preprocessing
        self._images = run.images
        self._model_id = run.loaded.model_id  # "resnet18" and "auto" that finds it share what was calibrated
        self._used = used
        self._reporter = run.reporter

    def __call__(
        self, model: ModelProto, factors: Mapping[str, NDArray[np.float64]], seen: Iterable[SeenBatch]
    ) -> CalibrationTable:
        """Return the ranges of `model`, its channels scaled by `factors`; see `quantize_model.Calibrator`.

        Raises:
            CalibrationError: If nothing can be quantized or a tensor holds NaN or Inf.
        """
        cache = _cache(self._options)
        if cache is None:
            return self._calibrate(model, seen)
        key = calibration_key(
            model,
            factors,
            self._preprocessing,
            image_list_sha256=image_list_sha256(self._root, self._images.calibration),
            method=self._options.method,
            dialect=self._options.target.dialect,
            provider=self._options.calib_provider,
            zero_points=self._effort.zero_points,
        )
        found = cache.look_up(self._model_id, key)
        if isinstance(found, Hit):
            self._reporter.done(f"calibration cache: hit, {found.path}")
            wanted = len(self._images.calibration)
            if unread := wanted - found.table.num_images:
                self._reporter.warn(
                    f"calibrating: {unread} of {counted(wanted, 'image')} could not be read when it was made"
                )
            return found.table
        if found.is_corrupt:
            self._reporter.warn(f"calibration cache: {found.reason}")
        else:
            self._reporter.done(f"calibration cache: miss, {found.reason}")
        table = self._calibrate(model, seen)
        try:
            cache.store(self._model_id, key, table)
        except OSError as err:
            self._reporter.warn(
                f"calibration cache: {cache.folder} cannot be written: {err}; --calib-cache names another"
            )
        return table

    def _calibrate(self, model: ModelProto, seen: Iterable[SeenBatch]) -> CalibrationTable:
        dialect = Dialect(self._options.target.dialect)
        measured = table_of(
            model, seen, method=self._options.method, dialect=dialect, zero_points=self._effort.zero_points
        )
        return replace(measured, image_list_sha256=image_list_sha256(self._root, self._used), seed=SEED)


def tell_weights(exported: ExportedModel, reporter: Reporter) -> None:
    """Warn of weights that are hard to quantize, before anything runs."""
    _tell(lint_weights(exported.onnx), reporter)


def tell_calibration(table: CalibrationTable, exported: ExportedModel, reporter: Reporter) -> None:
    """Tell what is doubtful about a calibration: its images, its convergence, its ranges."""
    if table.observed is not None:
        for warning in judge_input(table.observed.input, exported.loaded.preprocessing):
            reporter.warn(str(warning))
        convergence = table.observed.convergence
        if moving := still_moving(convergence):
            reporter.warn(str(moving))
        elif settled := images_until_settled(convergence, SETTLED):
            reporter.done(
                f"after {settled} of {counted(table.num_images, 'image')} no scale moved by more than {SETTLED:.0%}"
            )
    _tell(lint_activations(exported.onnx, table), reporter)


def calibration_report(table: CalibrationTable, exported: ExportedModel) -> dict[str, Any]:
    """Return what `report.json` says about the calibration."""
    observed = table.observed
    findings = lint_weights(exported.onnx) + lint_activations(exported.onnx, table)
    seen = () if observed is None else judge_input(observed.input, exported.loaded.preprocessing)
    return {
        "num_images": table.num_images,
        "convergence": None if observed is None else summary(observed.convergence),
        "input_warnings": [warning.to_json() for warning in seen],
        "quantizability": to_json(findings),
    }


def _tell(findings: tuple[TensorFinding, ...], reporter: Reporter) -> None:
    for line in lint_lines(findings):
        reporter.warn(f"hard to quantize: {line}")


def _cache(options: ExportOptions) -> CalibrationCache | None:
    if options.calib_cache == "off":
        return None
    return CalibrationCache(user_cache_folder() if options.calib_cache is None else Path(options.calib_cache))
