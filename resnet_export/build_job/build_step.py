"""Have one engine: build it or reuse the one there, and tell what it consists of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporter.engines.build_options import BuildOptions
from exporter.engines.bundle_engine import EngineOutcome, engine_from_bundle
from exporter.errors import EngineCheckError
from resnet_export.console.reporter import Reporter
from runtimes.first_few import first_few
from runtimes.trt.engine_layers import BUILD_LOG, REFORMAT, EngineLayers
from runtimes.trt.int8_coverage import Int8Coverage, int8_coverage
from runtimes.trt.layer_times import EngineTimes

NUM_SLOWEST = 5
"""How many of the slowest layers are named."""


NUM_NAMED = 8
"""How many of the layers that fell back are named."""

_WHAT_A_LIST_PROVES = "as the builder chose; which kernels run, and how fast, only a GPU tells"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One engine to have: which bundle, which precision, which library, how."""

    bundle: Path
    precision: str
    flavor: str
    options: BuildOptions
    output: Path | None = None
    timing_cache: bool | Path = True


def have_engine(request: EngineRequest, reporter: Reporter) -> EngineOutcome:
    """Build or reuse one engine, telling what happens."""
    with reporter.steps(f"building {request.precision} engine with {request.flavor}") as progress:
        outcome = engine_from_bundle(
            request.bundle,
            precision=request.precision,
            flavor=request.flavor,
            options=request.options,
            output=request.output,
            progress=progress,
            timing_cache=request.timing_cache,
            on_notice=reporter.warn,
        )
    sidecar = outcome.sidecar
    size = f"{sidecar.engine_size_bytes / 1e6:.1f} MB"
    made = f"{sidecar.facts.flavor} {sidecar.facts.tensorrt_version}"
    if outcome.reused:
        reporter.done(f"engine reused: {outcome.path} ({size}, {made}): {outcome.reason}")
    else:
        reporter.done(f"engine built: {outcome.path} ({size}, {made}, {sidecar.build_seconds:.1f} s): {outcome.reason}")
        for warning in sidecar.warnings:
            reporter.warn(f"{sidecar.facts.flavor}: {warning}")
    _tell_placement(outcome, reporter)
    _tell_layers(outcome, reporter)
    return outcome


def _tell_placement(outcome: EngineOutcome, reporter: Reporter) -> None:
    """Tell what a DLA computes, and what falls back to the GPU, by name."""
    if outcome.placement is None:
        return
    core = outcome.sidecar.facts.flags["dla_core"]
    on_dla, on_gpu = outcome.placement.on_dla, outcome.placement.on_gpu
    reporter.done(f"DLA core {core}: {len(on_dla)} of {len(on_dla) + len(on_gpu)} layers, as TensorRT foresaw it")
    if on_gpu:
        reporter.warn(f"{len(on_gpu)} layers on the GPU instead of the DLA: {', '.join(on_gpu)}")


def _tell_layers(outcome: EngineOutcome, reporter: Reporter) -> None:
    """Tell how many layers run in which precision, and which convolutions fell back."""
    layers = outcome.evidence.layers
    if layers is None:
        reporter.done(f"layers not counted: {outcome.evidence.why_no_layers}")
        return
    counts = ", ".join(f"{number} in {precision}" for precision, number in layers.count().items())
    reporter.done(f"layers of the engine: {counts}; {layers.num_reformats} reformats")
    _tell_coverage(outcome, int8_coverage(layers), reporter)
    _tell_times(outcome, layers, reporter)


def _tell_coverage(outcome: EngineOutcome, coverage: Int8Coverage, reporter: Reporter) -> None:
    """Tell what the convolutions and matrix products are computed in, by name where that is not what was asked for."""
    asked = outcome.sidecar.facts.precision.partition("-")[0].upper()
    number, total = coverage.count().get(asked, 0), len(coverage.precisions)
    source = f" ({_WHAT_A_LIST_PROVES})" if coverage.source == BUILD_LOG else ""
    reporter.done(f"{number} of {total} convolutions and matrix products read {asked}{source}")
    others = {name: kind for name, kind in coverage.precisions.items() if kind != asked}
    fallen = coverage.fallen_back() if asked == "INT8" else others
    kept = {name: kind for name, kind in others.items() if name not in fallen}
    if kept:
        reporter.done(f"{len(kept)} are no INT8 in the file: {_named(kept)}")
    if fallen:
        reporter.warn(f"{len(fallen)} convolutions or matrix products are not in {asked}: {_named(fallen)}")


def _named(precisions: dict[str, str]) -> str:
    return first_few((f"{name} ({kind})" for name, kind in precisions.items()), NUM_NAMED)


def check_min_int8(outcome: EngineOutcome, share: float) -> None:
    """Raise unless this share of the convolutions and matrix products reads INT8.

    Raises:
        EngineCheckError: If it is less, or if that cannot be told.
    """
    if outcome.evidence.layers is None:
        again = f"; delete {outcome.path} to build it anew" if outcome.reused else ""
        raise EngineCheckError(f"--min-int8-layers: it cannot be told here: {outcome.evidence.why_no_layers}{again}")
    coverage = int8_coverage(outcome.evidence.layers)
    if coverage.share < share:
        others = {name: kind for name, kind in coverage.precisions.items() if kind != "INT8"}
        raise EngineCheckError(
            f"--min-int8-layers: {coverage.num_int8} of {len(coverage.precisions)} convolutions and matrix products "
            f"read INT8, {coverage.share:.4g}, expected at least {share:.4g}; not: {_named(others) or 'none was found'}"
        )


def _tell_times(outcome: EngineOutcome, layers: EngineLayers, reporter: Reporter) -> None:
    times = outcome.evidence.times
    if times is None:
        reporter.done(f"layers not timed: {outcome.evidence.why_no_times}")
        return
    total = times.total_ms or 1.0
    shares = ", ".join(
        f"{spent / total:.0%} {'reformats' if word == REFORMAT else f'in {word}'}"
        for word, spent in times.by_precision(layers).items()
    )
    reporter.done(
        f"time in the layers at batch {times.batch}: {shares} of {total:.3g} ms (layer by layer, median of "
        f"{times.num_runs} runs; the engine alone is faster)"
    )
    slowest = ", ".join(
        f"{' + '.join(layer.nodes)} {spent:.3g} ms ({layer.precision})"
        for layer, spent in times.slowest(layers, NUM_SLOWEST)
    )
    reporter.done(f"slowest: {slowest}")


def engine_report(outcome: EngineOutcome) -> dict[str, Any]:
    """Return an outcome as JSON holds it."""
    found, layers = outcome.evidence, outcome.evidence.layers
    return {
        "engine": str(outcome.path),
        "reused": outcome.reused,
        "reason": outcome.reason,
        "sidecar": outcome.sidecar.to_json(),
        "dla": None if outcome.placement is None else asdict(outcome.placement),
        "times": found.why_no_times if found.times is None else _times_report(found.times, layers),
        "layers": found.why_no_layers if layers is None else layers.to_json(),
        "int8_coverage": found.why_no_layers if layers is None else int8_coverage(layers).to_json(),
    }


def _times_report(times: EngineTimes, layers: EngineLayers | None) -> dict[str, Any]:
    content = times.to_json()
    return content if layers is None else {**content, "ms_by_precision": times.by_precision(layers)}
