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

Every model measured is what `insert_and_refine` would write, second-order rounding apart.

Source: Shapley 1953, "A value for n-person games": the mean of a player's contribution over all orders, here over two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.mixed_precision.blocks import Block, find_blocks, multiply_adds
from calibration.mixed_precision.output_error import error_json, output_error
from calibration.observers.observe_batches import OpenRuntime
from calibration.pipeline.quantize_model import CalibratedModel, insert_and_refine
from calibration.placement.place import place
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.parity import first_output

NUM_IMAGES = 64
"""Images that the ranking looks at."""

NUM_WORST = 3
"""Blocks whose layers are ranked too."""

Images = NDArray[np.float32]
Track = Callable[[Iterable["Unit"], int], Iterable["Unit"]]


@dataclass(frozen=True, slots=True)
class Unit:
    """Unit of the ranking: a block or one of its layers.

    Attributes:
        name: Module path of the block, node name of the layer.
        block: The block; itself, or the one that the layer is in.
        nodes: Names of the nodes that stay in float with it.
        layers: Names of the quantized layers among them.
    """

    name: str
    block: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Accuracy cost of one block or layer.

    Attributes:
        unit: Which.
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
    """The ranking.

    Attributes:
        whole: Error of the network with everything quantized.
        blocks: Every block, worst first.
        layers: The layers of the worst blocks that have several, worst first.
    """

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
    num_worst: int = NUM_WORST,
    track: Track | None = None,
) -> Sensitivity:
    """Return what every block, and every layer of the worst blocks, costs.

    Args:
        calibrated: The float model with its ranges.
        images: A few batches of preprocessed images, float32 [n, C, H, W]: calibration images, never those that a
            verdict is measured on.
        open_exact: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        num_worst: In how many of the worst blocks layers are ranked.
        track: Wraps the iteration over what is measured, given their number; called for blocks, then for layers.

    Raises:
        CalibrationError: If there are no images, or nothing is quantized.
    """
    bench = _Bench(calibrated, images, open_exact)
    units = [Unit(block.name, block.name, block.nodes, block.layers) for block in bench.blocks]
    blocks = bench.costs(units, track)
    parts = [unit for cost in blocks[:num_worst] for unit in layers_of(cost.unit)]
    return Sensitivity(bench.whole, blocks, bench.costs(parts, track) if parts else ())


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

    def __init__(self, calibrated: CalibratedModel, images: Sequence[Images], open_exact: OpenRuntime) -> None:
        if not images:
            raise CalibrationError("got no image to rank blocks with, expected at least one")
        self._calibrated = calibrated
        self._images = images
        self._open = open_exact
        self._nodes = frozenset(node.name for node in calibrated.model.graph.node)
        layers = quantized_layer_names(calibrated)
        if not layers:
            raise CalibrationError("nothing in the model is quantized; there is nothing to rank")
        self._macs = multiply_adds(calibrated.model, layers)
        self.blocks: tuple[Block, ...] = find_blocks(calibrated.model, layers)
        with open_exact(calibrated.model) as runtime:
            self._reference = [first_output(runtime, batch) for batch in images]
        self.whole = self.error(())

    def error(self, keep_float: Collection[str]) -> LogitComparison:
        """Return the error with everything but `keep_float` quantized."""
        result = insert_and_refine(self._calibrated, open_exact=self._open, keep_float=keep_float, round_weights=False)
        with self._open(result.quantized.model) as runtime:
            return output_error(self._reference, runtime, self._images)

    def costs(self, units: Sequence[Unit], track: Track | None) -> tuple[Cost, ...]:
        """Measure one unit after the other; return them worst first."""
        measured = (self._cost(unit) for unit in (units if track is None else track(units, len(units))))
        return tuple(sorted(measured, key=lambda cost: cost.noise, reverse=True))

    def _cost(self, unit: Unit) -> Cost:
        nodes = frozenset(unit.nodes)
        share = sum(self._macs[layer] for layer in unit.layers) / sum(self._macs.values())
        alone, without = self.error(self._nodes - nodes), self.error(nodes)
        noise = (noise_to_signal(alone) + noise_to_signal(self.whole) - noise_to_signal(without)) / 2
        return Cost(unit, share, alone, without, noise)
