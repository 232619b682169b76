"""From a float model and images to the INT8 model: equalize, calibrate, align, place Q/DQ, refine.

    effort 0   ranges from every image, nothing else
    effort 1   + channels scaled to use the range (calibration.equalize), biases corrected (calibration.refine)
    effort 2   + weights rounded by second-order information (calibration.round_weights): minutes instead of seconds

Each step is measured alone and together with the others in docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.calibration_table import CalibrationTable, TensorRange
from calibration.channel_groups import ChannelGroup, find_channel_groups
from calibration.channel_statistics import ChannelStatistics, collect_channel_statistics
from calibration.collect_ranges import calibrate
from calibration.dialect import Dialect
from calibration.dialect_placement import place
from calibration.effort import DEFAULT_EFFORT, EFFORTS
from calibration.equalize import Factors, aligning_factors, equalizing_factors, scale_channels
from calibration.method import Method
from calibration.paired_walk import live_bytes_per_image
from calibration.qdq import QuantizedModel, insert_qdq
from calibration.refine import LayerRefinement, TrackLayers, refine
from runtimes.protocol import Runtime

MAX_LIVE_BYTES = 256 * 2**20
"""Activations kept while both models are walked: 13 images of a ResNet-50 at 224 x 224, all 64 at 96 x 96."""

MIN_SAMPLE, MAX_SAMPLE = 8, 64
"""Images that equalization and refinement look at."""

Images = NDArray[np.float32]
OpenRuntime = Callable[[ModelProto], Runtime]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizationResult:
    """The INT8 model and how it came about.

    Attributes:
        quantized: Q/DQ model and placement.
        table: Ranges, of the model with its channels scaled.
        effort: What was done.
        num_groups: Groups of tensors whose channels were scaled.
        refinement: Layer by layer, in graph order; empty at effort 0.
        num_sample: Images that equalization and refinement looked at.
    """

    quantized: QuantizedModel
    table: CalibrationTable
    effort: int
    num_groups: int = 0
    refinement: tuple[LayerRefinement, ...] = ()
    num_sample: int = 0


def quantize(
    model: ModelProto,
    batches: Iterable[Images],
    *,
    open_runtime: OpenRuntime,
    open_exact: OpenRuntime,
    method: Method | None = None,
    dialect: Dialect = Dialect.TENSORRT,
    effort: int = DEFAULT_EFFORT,
    track_layers: TrackLayers | None = None,
) -> QuantizationResult:
    """Return the INT8 model.

    Args:
        model: Folded float32 model with one input.
        batches: Preprocessed images, float32 [n, C, H, W]. Consumed once; the first few are kept for the sample.
        open_runtime: Opens the float model, such as `runtimes.OrtRuntime`.
        open_exact: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        method: How ranges are chosen; mean squared error by default.
        dialect: Who the file is for.
        effort: 0, 1 or 2; see the module's first lines.
        track_layers: Wraps the walk through the layers, to show how far it is.

    Raises:
        CalibrationError: If there was no image, or nothing in the model can be quantized.
        NonFiniteActivationError: If a tensor holds NaN or Inf; the message names tensor and images.
        PlacementError: If Q/DQ cannot be placed.
        ValueError: If `effort` is another number.
    """
    if effort not in EFFORTS:
        raise ValueError(f"effort: got {effort!r}, expected one of {', '.join(map(str, EFFORTS))}")
    if effort == 0:
        table = calibrate(model, batches, open_runtime=open_runtime, method=method, dialect=dialect)
        return QuantizationResult(insert_qdq(model, table), table, effort)
    stream = iter(batches)
    sample = _first_images(stream, sample_size(model))
    groups = find_channel_groups(model)
    statistics = _statistics(model, groups, sample, dialect, open_runtime)
    groups = tuple(group for group in groups if any(name in statistics for name in group.tensors))
    factors = {group: equalizing_factors(group, statistics) for group in groups}
    images = chain(sample, stream)
    equalized = scale_channels(model, factors).model
    table = calibrate(equalized, images, open_runtime=open_runtime, method=method, dialect=dialect)
    del equalized  # a second copy of all weights, not needed beside the third
    aligned = scale_channels(model, _aligned(factors, statistics, table.ranges)).model
    plain = insert_qdq(aligned, table)
    refined = refine(
        aligned, plain.model, sample, open_runtime=open_exact, round_weights=effort > 1, track=track_layers
    )
    return QuantizationResult(
        QuantizedModel(refined.model, plain.placement),
        table,
        effort,
        num_groups=len(groups),
        refinement=refined.layers,
        num_sample=refined.num_images,
    )


def sample_size(model: ModelProto) -> int:
    """Return how many images fit into `MAX_LIVE_BYTES` while both models are walked, within the limits above."""
    return min(MAX_SAMPLE, max(MIN_SAMPLE, MAX_LIVE_BYTES // live_bytes_per_image(model)))


def _first_images(batches: Iterator[Images], count: int) -> list[Images]:
    """Take whole batches from the stream until `count` images are there."""
    taken: list[Images] = []
    while sum(map(len, taken)) < count and (batch := next(batches, None)) is not None:
        taken.append(batch)
    return taken


def _statistics(
    model: ModelProto,
    groups: Iterable[ChannelGroup],
    sample: list[Images],
    dialect: Dialect,
    open_runtime: OpenRuntime,
) -> Mapping[str, ChannelStatistics]:
    """Return the statistics of the tensors that are quantized and belong to a group."""
    grouped = {name for group in groups for name in group.tensors}
    tensors = [name for name in place(model, dialect).activations if name in grouped]
    if not tensors or not sample:
        return {}
    return collect_channel_statistics(model, tensors, sample, open_runtime=open_runtime)


def _aligned(
    factors: Mapping[ChannelGroup, Factors],
    statistics: Mapping[str, ChannelStatistics],
    ranges: Mapping[str, TensorRange],
) -> dict[ChannelGroup, Factors]:
    """Return every group's factors times the second, small ones, which the equalized model's statistics give."""
    aligned = {}
    for group, scale in factors.items():
        equalized = {name: statistics[name].scaled(scale) for name in group.tensors if name in statistics}
        aligned[group] = scale * aligning_factors(group, equalized, ranges)
    return aligned
