"""Which blocks and layers cost a quantized network its accuracy.

Two figures per block, both at the network's output, over a few calibration images:

    alone     only this block is quantized, everything else is float: where the noise comes from. Nothing hides it: of
              two broken blocks each shows, while leaving only one of them in float would win next to nothing.
    without   everything but this block is quantized: what is left when this one stays in float. Errors cancel, so it
              may be *more*: on a ResNet-18 of clip art the block that is noisiest alone (layer1.0) left 32.9 dB instead
              of 33.8 dB when it stayed in float.

Neither is enough, so blocks are ranked by the mean of both as noise power relative to the signal,

    cost = ( N(alone) + N(whole) - N(without) ) / 2,    N = 10^(-SQNR / 10),

what the block adds when it is the first to be quantized and when it is the last: the two ends of its Shapley value.
It is a place to start from, no promise: who decides by it (`mixed_precision.search`) measures after every step.

Every model measured is what `insert_and_refine` would write, second-order rounding apart. What only one block apart has
in common is computed once: all `alone` begin like the float model, all `without` like the whole quantized one
(`mixed_precision.variant_runs`).

Source: Shapley 1953, "A value for n-person games": the mean of a player's contribution over all orders, here over two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.mixed_precision.blocks import Block, find_blocks
from calibration.mixed_precision.output_error import error_json, output_error
from calibration.mixed_precision.variant_runs import NUM_SAMPLE, VariantRuns, can_share
from calibration.mixed_precision.variants import VariantMaker
from calibration.observers.observe_batches import OpenRuntime
from calibration.observers.tensor_bytes import live_bytes_per_image, multiply_adds
from calibration.pipeline.quantize_model import CalibratedModel, insert_and_refine
from calibration.placement.place import place
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.side_by_side import ONE_STREAM, SideBySide, in_order

NUM_IMAGES = 64
"""Images that the ranking looks at."""

NUM_WORST = 3
"""Blocks whose layers are ranked too."""

ALONE, WITHOUT, WHOLE = "alone", "without", ""

MAX_BYTES, NUM_RUNS, LEAST_AT_ONCE = 2**30, 2, 8
"""Tensors that are kept: of the model that all begin with, and of the one that goes on from there."""

Images = NDArray[np.float32]
Track = Callable[[Iterable["Unit"], int], Iterable["Unit"]]


@dataclass(frozen=True, slots=True)
class Unit:
    """A block or one of its layers, as ranked: the nodes that stay in float with it, and the layers among them."""

    name: str
    block: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Accuracy cost of one block or layer.

    Attributes:
        share_of_macs: Its multiply-adds, of all in layers that can be quantized, 0 to 1.
        alone: Error of the network when only this is quantized.
        without: Error of the network when everything but this is quantized.
        noise: Cost as noise power relative to the signal; see the module's first lines. May be below 0.
    """

    unit: Unit
    share_of_macs: float
    alone: LogitComparison
    without: LogitComparison
    noise: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as `report.json` holds it."""
        return {
            "name": self.unit.name,
            "block": self.unit.block,
            "layers": list(self.unit.layers),
            "share_of_macs": self.share_of_macs,
            "noise": self.noise,
            "alone": error_json(self.alone),
            "without": error_json(self.without),
        }


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Every block, and the layers of the worst that have several, worst first; and the error with all quantized."""

    whole: LogitComparison
    blocks: tuple[Cost, ...]
    layers: tuple[Cost, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as `report.json` holds it; `noise` makes the bars of a plot."""
        return {
            "whole": error_json(self.whole),
            "blocks": [cost.to_json() for cost in self.blocks],
            "layers": [cost.to_json() for cost in self.layers],
        }


def noise_to_signal(error: LogitComparison) -> float:
    """Return the noise's power relative to the signal's, which adds up where errors are independent."""
    return 0.0 if error.sqnr_db is None else float(10.0 ** (-error.sqnr_db / 10.0))


def rank(
    calibrated: CalibratedModel,
    images: Sequence[Images],
    *,
    open_exact: OpenRuntime,
    side_by_side: SideBySide | None = None,
    num_worst: int = NUM_WORST,
    track: Track | None = None,
) -> Sensitivity:
    """Return what every block, and every layer of the worst blocks, costs.

    Args:
        calibrated: The float model with its ranges.
        images: A few batches of preprocessed images, float32 [n, C, H, W]: calibration images, never those that a
            verdict is measured on.
        open_exact: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        side_by_side: Opens the same for batches that run side by side; None runs one after the other.
        num_worst: In how many of the worst blocks layers are ranked.
        track: Wraps the iteration over what is measured, given their number; called for blocks, then for layers.

    Raises:
        CalibrationError: If there are no images, or nothing is quantized.
    """
    bench = _Bench(calibrated, images, open_exact, side_by_side or SideBySide(open_exact, ONE_STREAM))
    blocks = bench.costs([Unit(block.name, block.name, block.nodes, block.layers) for block in bench.blocks], track)
    parts = [unit for cost in blocks[:num_worst] for unit in layers_of(cost.unit)]
    layers = bench.costs(parts, track) if parts else ()
    assert bench.whole is not None
    return Sensitivity(bench.whole, blocks, layers)


def layers_of(block: Unit) -> tuple[Unit, ...]:
    """Return the layers of a block one by one; none where it has one only."""
    if len(block.layers) < 2:
        return ()
    return tuple(Unit(layer, block.block, (layer,), (layer,)) for layer in block.layers)


def quantized_layer_names(calibrated: CalibratedModel, keep_float: Collection[str] = ()) -> tuple[str, ...]:
    """Return the layers whose weights become integers when `keep_float` stays in float, in graph order.

    What the calibrated model keeps in float does, too.
    """
    return _quantized(calibrated, {*calibrated.keep_float, *keep_float})


def _quantized(calibrated: CalibratedModel, keep_float: Collection[str]) -> tuple[str, ...]:
    weights = {weight.name for weight in place(calibrated.model, calibrated.table.dialect, keep_float).weights}
    return tuple(node.name for node in calibrated.model.graph.node if len(node.input) > 1 and node.input[1] in weights)


def float_share(calibrated: CalibratedModel, keep_float: Collection[str]) -> float:
    """Return the share of multiply-adds that `keep_float` leaves in float, of those in layers that can be quantized."""
    macs = multiply_adds(calibrated.model, _quantized(calibrated, ()))
    kept = macs.keys() - set(quantized_layer_names(calibrated, keep_float))
    return sum(macs[name] for name in kept) / sum(macs.values())


class _Bench:
    """Measures variants of one calibrated model on the same images."""

    def __init__(
        self, calibrated: CalibratedModel, images: Sequence[Images], open_exact: OpenRuntime, side_by_side: SideBySide
    ) -> None:
        if not images:
            raise CalibrationError("got no image to rank blocks with, expected at least one")
        self._calibrated = calibrated
        self._images = images
        self._open, self._side_by_side = open_exact, side_by_side
        self._nodes = frozenset(node.name for node in calibrated.model.graph.node)
        layers = quantized_layer_names(calibrated)
        if not layers:
            raise CalibrationError("nothing in the model is quantized; there is nothing to rank")
        self._macs = multiply_adds(calibrated.model, layers)
        self.blocks: tuple[Block, ...] = find_blocks(calibrated.model, layers)
        with side_by_side.open(calibrated.model) as runtime:
            pieces = (partial(first_output, runtime, batch) for batch in images)
            self._reference = list(in_order(pieces, side_by_side.streams))
        self._maker = VariantMaker(calibrated) if can_share(calibrated.model) else None
        self.whole: LogitComparison | None = None if self._maker is not None else self._error(())

    def costs(self, units: Sequence[Unit], track: Track | None) -> tuple[Cost, ...]:
        """Measure every unit; return them worst first."""
        kept = {}
        for unit in units:
            kept[unit.name, ALONE], kept[unit.name, WITHOUT] = self._nodes.difference(unit.nodes), frozenset(unit.nodes)
        found = self._shared(units, kept, track)
        for key, nodes in kept.items():
            if key not in found:
                found[key] = self._error(nodes)
        self.whole = self.whole or found[WHOLE, WITHOUT]
        costs = (self._cost(unit, self.whole, found[unit.name, ALONE], found[unit.name, WITHOUT]) for unit in units)
        return tuple(sorted(costs, key=lambda cost: cost.noise, reverse=True))

    def _shared(
        self, units: Sequence[Unit], kept: Mapping[tuple[str, str], frozenset[str]], track: Track | None
    ) -> dict[tuple[str, str], LogitComparison]:
        """Measure what can begin where the float model or the whole quantized one has come to."""
        if self._maker is None:
            list(units if track is None else track(units, len(units)))
            return {}
        maker = self._maker
        entries = {key: found for key, nodes in kept.items() if (found := maker.entries(nodes)) is not None}
        bases = {ALONE: frozenset[tuple[object, ...]](), WITHOUT: maker.whole}
        starts = {key: maker.first_difference(bases[key[1]], found) for key, found in entries.items()}
        if self.whole is None:  # the same way as the blocks, so that what differs is the block
            entries[WHOLE, WITHOUT], starts[WHOLE, WITHOUT] = maker.whole, len(maker.places)
        meters = {key: LogitMeter(strict=True) for key in entries}
        groups = _groups(self._images, self._images_at_once())
        rounds = [unit for _ in groups for unit in units]
        progress = iter(rounds if track is None else track(rounds, len(rounds)))
        with VariantRuns(self._calibrated, starts.values(), self._side_by_side) as runs:
            reference = iter(self._reference)
            for images in groups:
                expected = [next(reference) for _ in images]
                for kind, base in ((ALONE, maker.float_variant()), (WITHOUT, maker.variant(maker.whole))):
                    now = runs.begin(images)
                    for key in sorted((key for key in entries if key[1] == kind), key=lambda key: starts[key]):
                        now = runs.go_on(base, now, starts[key])
                        done = now
                        if now.place < len(maker.places):
                            done = runs.go_on(maker.variant(entries[key]), now, len(maker.places))
                        for truth, logits in zip(expected, runs.logits(done), strict=True):
                            meters[key].add(truth, logits)
                        if kind == WITHOUT:
                            next(progress, None)
        list(progress)
        return {key: meter.report() for key, meter in meters.items()}

    def _error(self, keep_float: Collection[str]) -> LogitComparison:
        """Return the error with everything but `keep_float` quantized, of a file made for it."""
        result = insert_and_refine(self._calibrated, open_exact=self._open, keep_float=keep_float, round_weights=False)
        with self._open(result.quantized.model) as runtime:
            return output_error(self._reference, runtime, self._images)

    def _images_at_once(self) -> int:
        """Return how many images run together beside the sample, so that what lives takes `MAX_BYTES` at most."""
        try:
            fitting = MAX_BYTES // (NUM_RUNS * live_bytes_per_image(self._calibrated.model))
        except CalibrationError:
            return LEAST_AT_ONCE
        return max(LEAST_AT_ONCE, fitting - min(NUM_SAMPLE, sum(map(len, self._calibrated.sample))))

    def _cost(self, unit: Unit, whole: LogitComparison, alone: LogitComparison, without: LogitComparison) -> Cost:
        share = sum(self._macs[layer] for layer in unit.layers) / sum(self._macs.values())
        noise = (noise_to_signal(alone) + noise_to_signal(whole) - noise_to_signal(without)) / 2
        return Cost(unit, share, alone, without, noise)


def _groups(images: Sequence[Images], count: int) -> list[list[Images]]:
    """Return the batches in groups of `count` images at most, of one batch at least."""
    groups: list[list[Images]] = [[]]
    for batch in images:
        if groups[-1] and sum(map(len, groups[-1])) + len(batch) > count:
            groups.append([])
        groups[-1].append(batch)
    return groups
