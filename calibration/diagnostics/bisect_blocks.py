"""Which block broke? Two files side by side, block by block, on the same images.

    own error       the candidate's block, fed with the *reference's* input of it, against the reference's output: what
                    this block adds, whatever happened before it. Its biases are the reference's here unless they are
                    far off (`block_causes.MAX_BIAS_ERROR`): bias correction makes up for errors that arrive,
                    and without these it would pass for an error itself
    arrived error   the candidate's tensor in its own run against the reference's: what has piled up so far
    plain INT8      the own error of the same block, quantized here from the reference with ranges of these images: what
                    INT8 costs this block anyway. A block that is hard to quantize is no broken block

A block is **suspect** when its own SQNR is more than `MARGIN_DB` below that of plain INT8 and below `HARMLESS_DB` (for
a file that is not quantized: below a fixed figure), or when an activation scale of it is more than `MAX_SCALE_RATIO`
times plain INT8's: one tensor with two bits less may hide among the other errors of its block. The first suspect in
graph order is where the error jumps; a block that only passes on what came before is never suspect.

Files with scaled channels are compared with the reference scaled alike (`recover_channel_scales`), so that every
tensor, weight, bias and scale means the same on both sides, and what is wrong with a suspect can be read off them.

Measured on the digits ResNet-20 (16 images): no block of a healthy INT8 file (mse, max and percentile ranges; effort 0,
1 and 2; both dialects) lies more than 1.6 dB below plain INT8. A dropped bias, a transposed weight or a weight scale
times 4 puts its block 27 dB or more below, ranges of random noise 14 dB, entropy ranges, which clip too much there, 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.diagnostics.block_causes import (
    MAX_SCALE_RATIO,
    ActivationScale,
    activation_scales,
    causes_of,
    dialect_of,
    without_correction,
)
from calibration.diagnostics.block_subgraphs import BlockPieces, Border, OpenRuntime, block_borders, float_entry
from calibration.diagnostics.recover_channel_scales import (
    LayerConstants,
    layer_constants,
    recover_factors,
    with_reference,
)
from calibration.errors import CalibrationError
from calibration.methods.dialect import ZeroPoints
from calibration.qdq.insert_qdq import insert_qdq
from calibration.qdq.offsets import give_offsets_back, num_pads, num_zero_points
from calibration.ranges.collect_ranges import calibrate
from calibration.refinement.cross_layer_equalization import scale_channels
from runtimes.bundle.precision import is_int8
from runtimes.io.json_fields import json_value
from runtimes.metrics.tensor_meter import TensorMeter
from runtimes.side_by_side import ONE_STREAM, SideBySide, Streams, in_order

HARMLESS_DB = 30.0
"""A block that adds less noise costs no answers: every block of INT8 files of a ResNet-18 (random weights) and of the
digits' ResNet-20 measures 32 to 46 dB. Ranges of 32 images put the digits' classifier 11 dB below plain INT8, at 33 dB:
less than ideal, not broken."""

MARGIN_DB = 6.0
"""One bit. See the module's last lines for what healthy and broken files measure."""

LEAST_SQNR_DB: Mapping[str, float] = {"fp32": 80.0, "fp16": 40.0}
"""Of a block that is not quantized: on the digits float32, with 24 bits, measures 142 dB or more, FP16, with 11, 67 to
75 dB."""

Images = NDArray[np.float32]
Meters = dict[str, dict[str, TensorMeter]]


@dataclass(frozen=True, slots=True)
class BlockError:
    """One block.

    Attributes:
        name: Module path, or "stem".
        sqnr_db: Arrived error in dB; None where it is exact.
        own_sqnr_db: Own error in dB; None where it is exact.
        expected_sqnr_db: Own error of plain INT8; None for files that are not quantized, or exact.
        causes: What is wrong with it, as far as its constants tell; empty where it is not suspect.
    """

    name: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    expected_sqnr_db: float | None
    suspect: bool
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bisection:
    """Result of bisecting a file."""

    num_images: int
    blocks: tuple[BlockError, ...]

    @property
    def suspects(self) -> tuple[BlockError, ...]:
        """The blocks that broke, first in graph order first."""
        return tuple(block for block in self.blocks if block.suspect)

    @property
    def statement(self) -> str:
        """The result in one sentence."""
        if not self.suspects:
            return f"no block of {len(self.blocks)} is worse than its precision explains, on {self.num_images} images"
        first = self.suspects[0]
        others = [block.name for block in self.suspects[1:]]
        more = f"; also {', '.join(others)}" if others else ""
        own = "exact" if first.own_sqnr_db is None else f"{first.own_sqnr_db:.1f} dB"
        usual = "" if first.expected_sqnr_db is None else f", plain INT8 of it {first.expected_sqnr_db:.1f} dB"
        figures = f"SQNR of the block alone {own}{usual}"
        return f"the error jumps at {first.name} ({figures}): {'; '.join(first.causes)}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return `bisect` of verify's report."""
        return {
            "num_images": self.num_images,
            "statement": self.statement,
            "suspects": [block.name for block in self.suspects],
            "causes": [f"{block.name}: {cause}" for block in self.suspects for cause in block.causes],
            "blocks": json_value(self.blocks),
        }


def bisect_blocks(
    reference: ModelProto,
    candidate: ModelProto,
    images: Sequence[Images],
    *,
    precision: str,
    open_exact: OpenRuntime,
    side_by_side: SideBySide | None = None,
) -> Bisection:
    """Compare two files block by block.

    Args:
        reference: The trusted folded float32 file.
        candidate: The tested one: node and tensor names as in the reference, Q/DQ or casts between.
        images: Batches, normalized, float32 [n, 3, H, W]; also for files that take pixels.
        precision: The candidate's: "fp32", "fp16", "int8" or "int8-fp16".
        open_exact: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        side_by_side: Opens the same for batches that run side by side; None runs one after the other.

    Raises:
        CalibrationError: If there is no image, or the files have too little in common to be compared block by block.
    """
    if not images:
        raise CalibrationError("got no image to compare blocks on, expected at least one")
    plain = float_entry(reference)
    tested = float_entry(give_offsets_back(candidate, plain))
    layers = layer_constants(plain, tested, open_exact)
    if not layers:
        raise CalibrationError("no layer has the same name and shape in both files; blocks cannot be matched")
    quantized = is_int8(precision)
    if quantized:
        plain = scale_channels(plain, recover_factors(plain, layers)).model
        layers = with_reference(plain, layers, open_exact)
    borders = block_borders(plain, tested)
    runs = side_by_side or SideBySide(open_exact, ONE_STREAM)
    expected, scales = None, {}
    if quantized:
        table = calibrate(
            plain, images, open_runtime=open_exact, dialect=dialect_of(candidate), zero_points=_zero_points(candidate)
        )
        honest = insert_qdq(plain, table).model
        expected = BlockPieces(honest, borders, runs.open)
        scales = activation_scales(tested, honest, borders)
    alone = without_correction(tested, layers) if quantized else tested
    trusted, whole, own = (BlockPieces(model, borders, runs.open) for model in (plain, tested, alone))
    meters = _measure(borders, trusted, whole, own, expected=expected, images=images, streams=runs.streams)
    blocks = tuple(
        _judge(border, meters[border.name], layers, scales.get(border.name, ()), precision) for border in borders
    )
    return Bisection(sum(len(batch) for batch in images), blocks)


def _zero_points(candidate: ModelProto) -> ZeroPoints:
    """Return what takes the zero points of a file."""
    if not num_zero_points(candidate):
        return ZeroPoints.NONE
    return ZeroPoints.PADS if num_pads(candidate) else ZeroPoints.BIASES


def _measure(
    borders: Sequence[Border],
    trusted: BlockPieces,
    tested: BlockPieces,
    alone: BlockPieces,
    *,
    expected: BlockPieces | None,
    images: Sequence[Images],
    streams: Streams,
) -> Meters:
    """Return, by block, the meters "arrived", "own" and "expected"."""

    def measure(batch: Images) -> Meters:
        meters = _meters(borders)
        truth, arrived = trusted.whole(batch), tested.whole(batch)
        for border in borders:
            found = {"arrived": {name: arrived[name] for name in border.outputs}, "own": alone.block(border, truth)}
            if expected is not None:
                found["expected"] = expected.block(border, truth)
            for kind, values in found.items():
                for name in border.outputs:
                    meters[border.name][kind].add(truth[name], values[name])
        return meters

    total = _meters(borders)
    with ExitStack() as stack:
        for pieces in (trusted, tested, alone, expected):
            if pieces is not None:
                stack.enter_context(pieces)
        for one in in_order((partial(measure, batch) for batch in images), streams):
            for border in borders:
                for kind, meter in total[border.name].items():
                    meter.include(one[border.name][kind])
    return total


def _meters(borders: Sequence[Border]) -> Meters:
    return {border.name: {kind: TensorMeter() for kind in ("arrived", "own", "expected")} for border in borders}


def _judge(
    border: Border,
    meters: Mapping[str, TensorMeter],
    layers: Mapping[str, LayerConstants],
    scales: Sequence[ActivationScale],
    precision: str,
) -> BlockError:
    arrived, own = (meters[kind].report().sqnr_db for kind in ("arrived", "own"))
    expected = meters["expected"].report().sqnr_db if is_int8(precision) else None
    usual = np.inf if expected is None else expected
    least = LEAST_SQNR_DB[precision] if not is_int8(precision) else min(HARMLESS_DB, usual - MARGIN_DB)
    suspect = (own is not None and own < least) or any(scale.ratio > MAX_SCALE_RATIO for scale in scales)
    causes: tuple[str, ...] = ()
    if suspect:
        causes = causes_of([layers[name] for name in border.layers if name in layers], scales)
        causes = causes or ("its constants are like the reference's, its output is not",)
    return BlockError(border.name, arrived, own, expected, suspect, causes)
