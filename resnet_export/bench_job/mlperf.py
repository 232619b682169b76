"""MLPerf's SingleStream and Offline scenarios, driven by MLCommons' own load generator.

What is timed is `run` on prepared pictures, as MLPerf has it for image classification: preparation is outside. These
are not MLPerf results: they need its data set, its rules (10 minutes, 24 576 queries) and a review.
Source: MLCommons, inference policies, inference_rules.adoc; loadgen 6.0, bindings/python_api.cc.
"""

from __future__ import annotations

import array
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import RuntimeAdapterError
from runtimes.inference.model import Model
from runtimes.needed_library import needed_library
from runtimes.protocol import Array

SCENARIOS = ("SingleStream", "Offline")

_RESULT: Mapping[str, tuple[str, float, str]] = {
    "SingleStream": (r"90(?:\.0+)?(?:th)? percentile latency \(ns\)\s*:\s*([\d.]+)", 1e-6, "ms, 90th percentile"),
    "Offline": (r"Samples per second\s*:\s*([\d.]+)", 1.0, "images a second"),
}


@dataclass(frozen=True, slots=True)
class MlperfResult:
    """A load generator's result: a scenario's figure, its unit, whether it calls the run valid, and its summary."""

    scenario: str
    value: float
    unit: str
    is_valid: bool
    summary: str


def load_loadgen() -> Any:
    """Return the module `mlperf_loadgen`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    told = '--mlperf needs MLCommons\' load generator ({err}); pip install "resnet-export[bench]"'
    return needed_library("mlperf_loadgen", told)


def run_scenario(
    model: Model, inputs: Mapping[str, Array], scenario: str, *, seconds: float, offline_batch: int
) -> MlperfResult:
    """Run one scenario on prepared pictures.

    Raises:
        MissingDependencyError: If the load generator is not installed.
        RuntimeAdapterError: If the model failed during the run, or no figure came out.
    """
    loadgen = load_loadgen()
    num_samples = len(next(iter(inputs.values())))
    errors: list[Exception] = []
    rows = 1 if scenario == "SingleStream" else offline_batch
    sut = loadgen.ConstructSUT(_answer(loadgen, model, inputs, rows, errors), _nothing)
    qsl = loadgen.ConstructQSL(num_samples, num_samples, _nothing, _nothing)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = _settings(loadgen, model, inputs, scenario, seconds=seconds, rows=rows)
            loadgen.StartTestWithLogSettings(sut, qsl, settings, _log_settings(loadgen, folder))
            summary = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    finally:
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)
    if errors:
        raise RuntimeAdapterError(f"the model failed during {scenario}: {errors[0]}") from errors[0]
    return parse_summary(summary, scenario)


def parse_summary(summary: str, scenario: str) -> MlperfResult:
    """Read the scenario's figure out of `mlperf_log_summary.txt`.

    Raises:
        RuntimeAdapterError: If it is not there.
    """
    pattern, factor, unit = _RESULT[scenario]
    found = re.search(pattern, summary)
    if found is None:
        raise RuntimeAdapterError(f"the load generator's summary of {scenario} holds no result:\n{summary}")
    is_valid = re.search(r"Result is\s*:\s*VALID", summary) is not None
    return MlperfResult(scenario, float(found[1]) * factor, unit, is_valid, summary)


def _answer(
    loadgen: Any, model: Model, inputs: Mapping[str, Array], batch: int, errors: list[Exception]
) -> Callable[[list[Any]], None]:
    """Return what the load generator calls with queries; an exception would end the process, so it is kept."""

    def answer(queries: list[Any]) -> None:
        for start in range(0, len(queries), batch):
            chunk = queries[start : start + batch]
            rows = [query.index for query in chunk]
            try:
                values = next(iter(model.run({name: values[rows] for name, values in inputs.items()}).values()))
            except Exception as err:  # told after the test; every query must be answered, or it waits for ever
                errors.append(err)
                values = np.zeros((len(chunk), 1), np.float32)
            held = [array.array("B", np.ascontiguousarray(row).tobytes()) for row in values]
            infos = [buffer.buffer_info() for buffer in held]
            loadgen.QuerySamplesComplete(
                [
                    loadgen.QuerySampleResponse(query.id, address, length)
                    for query, (address, length) in zip(chunk, infos, strict=True)
                ]
            )

    return answer


def _settings(
    loadgen: Any, model: Model, inputs: Mapping[str, Array], scenario: str, *, seconds: float, rows: int
) -> Any:
    from runtimes.metrics.latency import measure_latency

    some = {name: np.resize(values, (rows, *values.shape[1:])) for name, values in inputs.items()}
    latency = measure_latency(lambda: model.run(some), budget_s=0.5)
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1000)
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = max(1, round(latency.p50_ms * 1e6))
    settings.offline_expected_qps = rows / latency.p50_ms * 1000
    return settings


def _log_settings(loadgen: Any, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _nothing(*samples: Any) -> None:
    """Load, unload and flush nothing: the samples are in memory."""
