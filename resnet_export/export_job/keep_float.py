"""What `--keep-float` gains and costs: the same INT8 model with and without it, on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calibration.mixed_precision.sensitivity import float_share, quantized_layer_names
from calibration.pipeline.quantize_model import CalibratedModel, QuantizationResult, insert_and_refine
from resnet_export.export_job.accuracy_budget import open_exact, tally_images
from resnet_export.export_job.run import ExportRun

if TYPE_CHECKING:
    from exporter.tracing.export import ExportedModel

MAX_IMAGES = 64
"""Images on which both are compared: enough to tell SQNR to a tenth of a decibel (measured on digits)."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptFloat:
    """One run's `--keep-float`.

    Attributes:
        run: What was asked for.
        exported: The float model.
        calibrated: The same with its ranges; `keep_float` is set.
        named: Each name of `--keep-float` to its nodes.
    """

    run: ExportRun
    exported: ExportedModel
    calibrated: CalibratedModel
    named: Mapping[str, tuple[str, ...]]

    def report(self, result: QuantizationResult) -> dict[str, Any]:
        """Return `keep_float` of `report.json`.

        Args:
            result: The INT8 model that is written.
        """
        without = replace(self.calibrated, keep_float=frozenset())
        everything = insert_and_refine(without, open_exact=open_exact)
        layers = set(quantized_layer_names(without)) - set(quantized_layer_names(self.calibrated))
        share = float_share(self.calibrated, ())
        weights = {tensor.name: 3 * _num_values(tensor.dims) for tensor in self.calibrated.model.graph.initializer}
        names = {node.input[1] for node in self.calibrated.model.graph.node if node.name in layers}
        more_bytes = sum(weights[name] for name in names)
        images = (self.run.images.measured or self.run.images.calibration)[:MAX_IMAGES]
        before, after = (self._sqnr_db(one, images) for one in (everything, result))
        gain = "" if before is None or after is None else f", SQNR {before:.1f} -> {after:.1f} dB"
        held_out = bool(self.run.images.measured)
        statement = (
            f"{', '.join(self.named)} ({len(layers)} layer{'s' * (len(layers) != 1)}): {100 * share:.1f} % of the "
            f"multiply-adds, {more_bytes:,} bytes more{gain} on {len(images)} "
            f"{'images' if held_out else 'calibration images'}"
        )
        self.run.reporter.done(f"in float by --keep-float: {statement}")
        return {
            "names": {name: [node for node in nodes if node in layers] for name, nodes in self.named.items()},
            "layers": sorted(layers),
            "share_of_macs": share,
            "more_bytes": more_bytes,
            "sqnr_db_without": before,
            "sqnr_db_with": after,
            "num_images": len(images),
            "images_calibrated": not held_out,
            "statement": statement,
        }

    def _sqnr_db(self, result: QuantizationResult, images: Any) -> float | None:
        return tally_images(
            self.exported.onnx,
            result.quantized.model,
            self.run.batches("measuring --keep-float", images),
            classes=None,
            exact_qdq=self.run.options.target.exact_int8_simulation,
        ).sqnr_db


def _num_values(dims: Any) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
