"""`--max-top1-drop` and `--min-agreement`: keep what INT8 may lose, by leaving the worst layers in float.

Measured on images that calibrated nothing. While nothing has been chosen, all of them judge. Once layers have to be
chosen, one part of the images chooses and the other judges, where there are enough for two parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.mixed_precision.accuracy_budget import (
    AccuracyBudget,
    BudgetEvidence,
    budget_figures,
    evidence,
    evidence_in_words,
    figures_in_words,
    joined,
    percent,
)
from calibration.mixed_precision.search import MIN_INT8_SHARE, Search, kept_layers, leave_in_float
from calibration.mixed_precision.sensitivity import NUM_IMAGES, Sensitivity, float_share, rank
from calibration.pipeline.quantize_model import CalibratedModel, QuantizationResult, insert_and_refine
from exporter.errors import AccuracyBudgetError, ExportError
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.artifacts import BudgetOutcome
from resnet_export.export_job.context.run import ExportRun
from resnet_export.images.class_index import ClassIndex
from runtimes.metrics.latency import measure_latency
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.exact_sessions import exact_side_by_side, open_exact
from runtimes.preprocessing.image_batches import Batch
from runtimes.side_by_side import in_order, streams_of_this_machine

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.tracing.export import ExportedModel

MIN_TO_SPLIT = 128
"""With fewer images the same ones choose and judge, and the report says so: halves of them would do neither well."""

MAX_SELECTION = 1024
"""Images that choose, at most; the others judge."""


@dataclass(frozen=True, slots=True)
class BudgetImages:
    """Which images choose and which judge; the same where there are too few to part them."""

    selection: tuple[Path, ...]
    verdict: tuple[Path, ...]

    @property
    def apart(self) -> bool:
        """Whether no image does both."""
        return self.selection != self.verdict


def part_images(measured: Sequence[Path]) -> BudgetImages:
    """Return which images choose and which judge."""
    if len(measured) < MIN_TO_SPLIT:
        return BudgetImages(tuple(measured), tuple(measured))
    cut = min(len(measured) // 2, MAX_SELECTION)
    return BudgetImages(tuple(measured[:cut]), tuple(measured[cut:]))


@dataclass(slots=True, eq=False)
class BudgetJob:
    """One run's budget, with all that is needed to measure it."""

    run: ExportRun
    exported: ExportedModel
    calibrated: CalibratedModel
    _last: tuple[frozenset[str], QuantizationResult] | None = field(init=False, default=None)

    def hold(self, whole: QuantizationResult) -> BudgetOutcome:
        """Return a model that keeps the budget: `whole`, where it does.

        Raises:
            AccuracyBudgetError: If it cannot be kept.
            ExportError: If there is no image to measure on.
        """
        budget = self.run.options.budget
        assert budget is not None
        parts = part_images(self.run.images.measured)
        if not parts.verdict:
            raise ExportError(
                "an accuracy budget is measured on images that do not calibrate, and none are left; give more images "
                "in --calib (a quarter is held out) or --val DIR"
            )
        self._warn_if_too_few(budget)
        before = self._measure(whole, parts.verdict)
        selection = self._measure(whole, parts.selection) if parts.apart else before
        everything = joined(before, selection) if parts.apart else before
        if budget.holds(everything):
            return self._unchanged(budget, whole, everything)
        self.run.reporter.done(
            f"accuracy budget ({budget.in_words()}) does not hold with every layer in INT8: "
            f"{figures_in_words(budget, everything)}; looking for the layers that cost most"
        )
        last = self.run.images.calibration[-NUM_IMAGES:]  # not the first, whose means refinement has corrected
        ranking = rank_images(self.calibrated, self.run.batches("reading images", last), self.run.reporter)
        search = leave_in_float(
            budget,
            ranking,
            whole=selection,
            select=lambda nodes: self._measure(self._quantized(nodes, round_weights=False), parts.selection),
            judge=lambda nodes: self._measure(self._quantized(nodes, round_weights=True), parts.verdict),
            int8_share=lambda nodes: 1.0 - float_share(self.calibrated, nodes),
        )
        if search.nodes is None or search.verdict is None:
            raise AccuracyBudgetError(self._cannot_hold(budget, search, everything))
        result = self._quantized(search.nodes, round_weights=True)
        return self._changed(budget, whole, result, parts, before=before, search=search, ranking=ranking)

    def _warn_if_too_few(self, budget: AccuracyBudget) -> None:
        num_images, needed = len(self.run.images.measured), budget.images_to_show_it
        if num_images < needed < float("inf"):
            self.run.reporter.warn(
                f"accuracy budget: {num_images} images cannot show {budget.in_words()}; that takes {needed:.0f} at "
                "least, even if no answer changes. What is measured may still contradict it"
            )

    def _quantized(self, nodes: frozenset[str], *, round_weights: bool) -> QuantizationResult:
        """Return the model with `nodes` in float; the last one is kept, as it is often measured twice."""
        rounds = round_weights and self.calibrated.effort.round_weights
        if not rounds and self._last is not None and self._last[0] == nodes:
            return self._last[1]
        result = insert_and_refine(
            self.calibrated,
            open_exact=open_exact,
            keep_float=nodes,
            round_weights=round_weights,
            track_layers=partial(self.run.reporter.track, "refining") if rounds else None,
        )
        if not rounds:
            self._last = (nodes, result)
        return result

    def _measure(self, result: QuantizationResult, paths: Sequence[Path]) -> LogitComparison:
        return tally_images(
            self.exported.onnx,
            result.quantized.model,
            self.run.batches("measuring INT8", paths),
            classes=self.run.classes,
            exact_qdq=self.run.options.target.exact_int8_simulation,
        )

    def _cannot_hold(self, budget: AccuracyBudget, search: Search, before: LogitComparison) -> str:
        units = ", ".join(unit.name for unit in search.units) or "nothing"
        best = search.verdict or min(
            (step.selection for step in search.steps), key=lambda seen: seen.kl, default=before
        )
        share = float_share(self.calibrated, frozenset(node for unit in search.units for node in unit.nodes))
        return (
            f"the accuracy budget cannot hold: got {figures_in_words(budget, best)} with {units} in float "
            f"({percent(share)} of the multiply-adds), expected {budget.in_words()}; with every layer in INT8: "
            f"{figures_in_words(budget, before)}. At least {percent(MIN_INT8_SHARE)} has to stay in INT8. Nothing was "
            "written. More calibration images, another --method, --effort 2 or a wider budget may help; --fp16 needs "
            "none of this"
        )

    def _unchanged(self, budget: AccuracyBudget, whole: QuantizationResult, measured: LogitComparison) -> BudgetOutcome:
        found = evidence(budget, measured)
        statement = _statement(budget, measured, found)
        self.run.reporter.done(f"accuracy budget holds with every layer in INT8: {statement}")
        statement = f"{statement}; every layer in INT8"
        return BudgetOutcome(whole, self._report(budget, statement, found, measured, measured))

    def _changed(
        self,
        budget: AccuracyBudget,
        whole: QuantizationResult,
        result: QuantizationResult,
        parts: BudgetImages,
        *,
        before: LogitComparison,
        search: Search,
        ranking: Sensitivity,
    ) -> BudgetOutcome:
        assert search.nodes is not None
        assert search.verdict is not None
        after = search.verdict
        found = evidence(budget, after, search.num_verdicts + 1)  # one more: the model with every layer in INT8
        blocks = kept_layers(search.units)
        share = float_share(self.calibrated, search.nodes)
        latency = self._latency(whole, result)
        kept = "; ".join(_block_in_words(block, layers) for block, layers in blocks.items())
        statement = _statement(budget, after, found)
        cost = (
            f"{percent(share)} of the multiply-adds in float, {latency['before_ms']:.2f} to "
            f"{latency['after_ms']:.2f} ms in ONNX Runtime on this CPU"
        )
        self.run.reporter.done(f"accuracy budget holds with {kept} in float: {statement}; {cost}")
        if not parts.apart:
            self.run.reporter.warn(
                f"accuracy budget: with {len(parts.verdict)} images the same ones chose the layers and judged the "
                f"result, which flatters it; from {MIN_TO_SPLIT} on they are kept apart"
            )
        report = self._report(
            budget,
            f"{statement}; in float: {kept}; {cost}",
            found,
            before,
            after,
            num_selection_images=search.steps[0].selection.num_images,
            verdict_apart_from_selection=parts.apart,
            kept_in_float={
                "blocks": {block: list(layers) for block, layers in blocks.items()},
                "nodes": sorted(search.nodes),
                "share_of_macs": share,
            },
            latency=latency,
            ranking=ranking.to_json(),
            steps=[step.to_json() for step in search.steps],
        )
        return BudgetOutcome(result, report)

    def _report(
        self,
        budget: AccuracyBudget,
        statement: str,
        found: BudgetEvidence,
        before: LogitComparison,
        after: LogitComparison,
        **others: Any,
    ) -> dict[str, Any]:
        """Return `accuracy_budget` of `report.json`; by default of a model with every layer in INT8."""
        return {
            **budget.to_json(),
            "holds": True,
            "statement": statement,
            "measured_on": self.run.images.measured_from,
            "num_selection_images": 0,
            "num_verdict_images": after.num_images,
            "verdict_apart_from_selection": True,
            "before": budget_figures(before),
            "after": budget_figures(after),
            "evidence": found.to_json(),
            "kept_in_float": {"blocks": {}, "nodes": [], "share_of_macs": 0.0},
            "latency": None,
            "ranking": None,
            "steps": [],
            **others,
        }

    def _latency(self, whole: QuantizationResult, result: QuantizationResult) -> dict[str, Any]:
        """Time one image through both files in ONNX Runtime: what a GPU takes is not measured here."""
        image = {"input": np.zeros((1, *self.exported.preprocessing.input_shape), np.float32)}
        times = []
        for model in (whole.quantized.model, result.quantized.model):
            with OrtRuntime(model) as runtime:
                times.append(measure_latency(lambda opened=runtime: opened.run(image)))  # type: ignore[misc]
        return {
            "before_ms": times[0].p50_ms,
            "after_ms": times[1].p50_ms,
            "provider": "CPUExecutionProvider",
            "batch": 1,
            "note": "ONNX Runtime on this CPU; GPU cost not measured",
        }


def rank_images(calibrated: CalibratedModel, batches: Iterable[Batch], reporter: Reporter) -> Sensitivity:
    """Rank blocks and layers by what they cost INT8; see `rank`."""
    images = [batch.images for batch in batches]
    side_by_side, track = exact_side_by_side(), partial(reporter.track, "ranking")
    return rank(calibrated, images, open_exact=open_exact, side_by_side=side_by_side, track=track)


def tally_images(
    reference: ModelProto,
    candidate: ModelProto,
    batches: Iterable[Batch],
    *,
    classes: ClassIndex | None,
    exact_qdq: bool,
) -> LogitComparison:
    """Compare an INT8 file with the float file, in the arithmetic that its target runs."""
    meter = LogitMeter(strict=True)
    streams = streams_of_this_machine()
    with ExitStack() as stack:
        trusted = stack.enter_context(OrtRuntime(reference, num_threads=streams.threads))
        tested = stack.enter_context(OrtRuntime(candidate, exact_qdq=exact_qdq, num_threads=streams.threads))

        def answers(batch: Batch) -> tuple[Batch, NDArray[np.float32], NDArray[np.float32]]:
            return batch, first_output(trusted, batch.images), first_output(tested, batch.images)

        for batch, wanted, got in in_order((partial(answers, batch) for batch in batches), streams):
            labels = None if classes is None else [classes.of[path] for path in batch.paths]
            meter.add(wanted, got, labels=labels)
    return meter.report()


def _statement(budget: AccuracyBudget, measured: LogitComparison, found: BudgetEvidence) -> str:
    return f"{figures_in_words(budget, measured, found)}, {evidence_in_words(budget, measured, found)}"


def _block_in_words(block: str, layers: Sequence[str]) -> str:
    """Return "layer1.1 (conv2)"; the name alone where it is a single layer."""
    if tuple(layers) == (block,):
        return block
    return f"{block} ({', '.join(layer.removeprefix(f'{block}.') for layer in layers)})"
