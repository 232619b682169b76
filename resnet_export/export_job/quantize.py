"""The INT8 step of the main job: calibration images through `calibration.pipeline`, and what came out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import PlacementError
from calibration.methods.dialect import Dialect
from calibration.mixed_precision.keep_float import nodes_named
from calibration.mixed_precision.sensitivity import float_share, quantized_layer_names
from calibration.pipeline import quantize_model
from calibration.pipeline.judge import MIN_JUDGES
from calibration.placement.for_tensorrt import Placement
from calibration.qdq.offsets import num_pads
from calibration.qdq.shared_weights import layers_of_shared_weights
from calibration.refinement.round_layer import WIDEST
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.accuracy_budget import BudgetJob, tally_images
from resnet_export.export_job.calibrate import CachedCalibration, calibration_runtime, tell_calibration, tell_weights
from resnet_export.export_job.context.artifacts import BudgetOutcome
from resnet_export.export_job.context.run import ExportRun
from runtimes.counted import counted
from runtimes.first_few import first_few
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.ort.exact_sessions import open_exact

if TYPE_CHECKING:
    from exporter.tracing.export import ExportedModel


def quantize_images(
    run: ExportRun, exported: ExportedModel
) -> tuple[quantize_model.QuantizationResult, BudgetOutcome | None, dict[str, Any] | None]:
    """Return the INT8 model of `exported`, what became of its budget, and what `--keep-float` gains and costs.

    Raises:
        PlacementError: If `--keep-float` names nothing, or everything.
        AccuracyBudgetError: If a budget was given and cannot hold.
    """
    options, reporter = run.options, run.reporter
    tell_weights(exported, reporter)
    named = nodes_named(exported.onnx, options.keep_float)
    used: list[Path] = []

    def arrays() -> Iterator[NDArray[np.float32]]:
        for batch in run.batches("calibrating", run.images.calibration):
            used.extend(batch.paths)
            yield batch.images

    calibrated = quantize_model.scale_and_calibrate(
        exported.onnx,
        arrays(),
        open_runtime=calibration_runtime(options.calib_provider),
        calibrator=CachedCalibration(run, used),
        method=options.method,
        dialect=Dialect(options.target.dialect),
        effort=options.steps,
    )
    calibrated = replace(calibrated, keep_float=frozenset(node for nodes in named.values() for node in nodes))
    if named and not quantized_layer_names(calibrated):
        raise PlacementError(
            f"--keep-float {','.join(named)}: no layer is left for INT8; name fewer, or leave --int8 out"
        )
    choosing, refining = (partial(reporter.track, what) for what in ("choosing ranges", "refining"))
    calibrated = quantize_model.settle_ranges(calibrated, open_exact=open_exact, track_tensors=choosing)
    result = quantize_model.insert_and_refine(calibrated, open_exact=open_exact, track_layers=refining)
    tell_calibration(result.table, exported, reporter)
    outcome = None
    if options.budget is not None:
        outcome = BudgetJob(run, exported, calibrated).hold(result)
        result = outcome.result
    kept = KeptFloat(run, exported, calibrated, named).report(result) if named else None
    _tell(result, reporter)
    return result, outcome, kept


def _distance(found: LogitComparison) -> str:
    """Return all that decides: each of the three may be what speaks against a step."""
    sqnr = "no error" if found.sqnr_db is None else f"{found.sqnr_db:.1f} dB"
    return f"{sqnr} (agreement {found.agreement:.1%}, KL {found.kl:.2g})" if found.has_classes else sqnr


def _tell(result: quantize_model.QuantizationResult, reporter: Reporter) -> None:
    table, placement = result.table, result.quantized.placement
    reporter.done(
        f"{counted(table.num_images, 'image')} calibrated {counted(len(table.ranges), 'tensor')} by "
        f"{table.method['name']}; {counted(len(placement.weights), 'weight')} in INT8"
    )
    if table.chosen:
        by_method = ", ".join(f"{count} by {word}" for word, count in Counter(table.chosen.values()).most_common())
        reporter.done(f"ranges chosen by what reaches the logits: {by_method}")
    if result.num_groups or result.refinement:
        layers_biases = counted(len(result.refinement), "layer's biases", "layers' biases")
        rounded = sum(layer.num_rounded for layer in result.refinement)
        reporter.done(
            f"on {result.num_sample} of the images: channels of {counted(result.num_groups, 'group')} of "
            f"tensors scaled, {layers_biases} corrected"
            + (f", {counted(rounded, 'weight')} rounded for what their layer reads" if rounded else "")
        )
    shared = layers_of_shared_weights(result.quantized.model) if result.effort.round_weights else {}
    if shared:
        layers = [layer for readers in shared.values() for layer in readers]
        reporter.done(
            f"{counted(len(shared), 'weight')} not rounded for what a layer reads, because several do "
            f"({first_few(layers)}): the nearest levels suit all of them"
        )
    if (judged := result.wide_layers) is not None:
        verb = "rounded" if judged.helps else "not rounded"
        reporter.done(
            f"widest layers {verb}: on {counted(judged.without.num_images, 'image')} that refinement has not seen, "
            f"{_distance(judged.without)} without, {_distance(judged.with_step)} with it"
        )
    if result.unjudged:
        reporter.done(
            f"widest layers not rounded ({len(result.unjudged)} of more than {WIDEST} columns): fewer than "
            f"{MIN_JUDGES} images are left to judge it on beside the {result.num_sample} that refinement takes; give "
            "more with --calib and --num-calib"
        )
    taken = sum(kept.dtype == "uint8" for kept in table.ranges.values())
    if taken and table.dialect is Dialect.TENSORRT:
        pads = num_pads(result.quantized.model)
        readers = counted(pads, "layer reads", "layers read")
        padded = f"; {readers} a Pad instead of padding (--zero-points biases: none)"
        reporter.done(
            f"{taken} of {counted(len(table.ranges), 'tensor')} {'has' if taken == 1 else 'have'} a zero point, which "
            f"biases take{padded if pads else ''}"
        )
    if table.dialect is Dialect.ONNXRUNTIME:
        reporter.done(
            f"for ONNX Runtime: UINT8 activations, "
            f"{counted(len(placement.biases), 'bias', 'biases')} in INT32, Adds and pools too"
        )
    _tell_placement(placement, reporter, on_one_side=table.dialect is Dialect.TENSORRT)


def _tell_placement(placement: Placement, reporter: Reporter, *, on_one_side: bool) -> None:
    adds = len(placement.residual_adds)
    if placement.num_adds and on_one_side:
        gated = sum(add.kernel != "Conv" for add in placement.residual_adds)
        behind = f"; {gated} lie behind a gate, in a pointwise kernel instead of a convolution's" if gated else ""
        reporter.done(
            f"{adds} of {counted(placement.num_adds, 'residual Add')} quantized on one side, the shortcut's{behind}"
        )
    if placement.shared_scales:
        reporter.done(
            f"{len(placement.shared_scales)} groups of tensors share a scale, so that moving them costs nothing"
        )
    nodes_of: dict[str, list[str]] = {}
    for sentence in placement.skipped:
        node, _, reason = sentence.partition(": ")
        nodes_of.setdefault(reason, []).append(node)
    for reason, nodes in nodes_of.items():
        named = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes, first {nodes[0]}"
        reporter.done(f"in float: {named}: {reason}")


MAX_IMAGES = 64
"""Images on which both are compared: enough to tell SQNR to a tenth of a decibel (measured on digits)."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptFloat:
    """One run's `--keep-float`: each name of it to its nodes."""

    run: ExportRun
    exported: ExportedModel
    calibrated: quantize_model.CalibratedModel
    named: Mapping[str, tuple[str, ...]]

    def report(self, result: quantize_model.QuantizationResult) -> dict[str, Any]:
        """Return `keep_float` of `report.json`: both compared alike, without the rounding that both would gain by."""
        without = replace(self.calibrated, keep_float=frozenset())
        everything, rounds = self._unrounded(without), self.calibrated.effort.round_weights
        kept = self._unrounded(self.calibrated) if rounds else result
        layers = set(quantized_layer_names(without)) - set(quantized_layer_names(self.calibrated))
        share = float_share(self.calibrated, ())
        weights = {tensor.name: 3 * math.prod(tensor.dims) for tensor in self.calibrated.model.graph.initializer}
        names = {node.input[1] for node in self.calibrated.model.graph.node if node.name in layers}
        more_bytes = sum(weights[name] for name in names)
        images = (self.run.images.measured or self.run.images.calibration)[:MAX_IMAGES]
        before, after = (self._sqnr_db(one, images) for one in (everything, kept))
        rounding = ", both before weights were rounded for what their layer reads," if rounds else ""
        gain = "" if before is None or after is None else f", SQNR {before:.1f} -> {after:.1f} dB{rounding}"
        held_out = bool(self.run.images.measured)
        statement = (
            f"{', '.join(self.named)} ({counted(len(layers), 'layer')}): {100 * share:.1f} % of the "
            f"multiply-adds, {counted(more_bytes, 'byte')} more{gain} on "
            f"{counted(len(images), 'image' if held_out else 'calibration image')}"
        )
        self.run.reporter.done(f"in float by --keep-float: {statement}")
        return {
            "names": {name: [node for node in nodes if node in layers] for name, nodes in self.named.items()},
            "layers": sorted(layers),
            "share_of_macs": share,
            "more_bytes": more_bytes,
            "sqnr_db_without": before,
            "sqnr_db_with": after,
            "compared_before_rounding": rounds,
            "num_images": len(images),
            "images_calibrated": not held_out,
            "statement": statement,
        }

    def _unrounded(self, calibrated: quantize_model.CalibratedModel) -> quantize_model.QuantizationResult:
        """Return the INT8 model with its biases corrected: rounding again would double the time that INT8 takes."""
        return quantize_model.insert_and_refine(calibrated, open_exact=open_exact, round_weights=False)

    def _sqnr_db(self, result: quantize_model.QuantizationResult, images: Any) -> float | None:
        return tally_images(
            self.exported.onnx,
            result.quantized.model,
            self.run.batches("measuring --keep-float", images),
            classes=None,
            exact_qdq=self.run.options.target.exact_int8_simulation,
        ).sqnr_db
