"""From a float model and images to the INT8 model: equalize, calibrate, place Q/DQ, refine.

    effort 0   ranges from every image, nothing else
    effort 1   + channels scaled to use the range (cross_layer_equalization), zero points where biases can take them
                 (placement.offset_tensors); then, layer by layer, weights rounded for the layer's output and biases
                 corrected (refinement.refine)
    effort 2   + the same for layers of any width

Each step is measured alone and together with the others in docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import Auto
from calibration.methods.dialect import Dialect
from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS, Effort
from calibration.methods.method import Method
from calibration.observers.observe_batches import OpenRuntime, SeenBatch, observe_batches
from calibration.observers.tensor_bytes import live_bytes_per_image
from calibration.placement.place import place
from calibration.qdq.insert_qdq import QuantizedModel, insert_qdq
from calibration.qdq.offsets import take_offsets
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import table_of, tensors_to_observe
from calibration.refinement.channel_groups import ChannelGroup, find_channel_groups
from calibration.refinement.choose_ranges import TrackTensors, choose_ranges
from calibration.refinement.cross_layer_equalization import Factors, equalizing_factors, scale_channels
from calibration.refinement.refine import LayerRefinement, TrackLayers, refine
from exporter.graph.weighted_ops import WEIGHTED_OPS

MAX_LIVE_BYTES = 320 * 2**20
"""Float32 activations alive at a time in the images that a model is walked with: 33 images of a ResNet-50 at 224 x 224,
all 64 at 96 x 96. The walks keep less than three quarters of it, levels and half precision."""

MIN_SAMPLE, MAX_SAMPLE = 8, 64
"""Images that equalization and refinement look at."""

Images = NDArray[np.float32]
Calibrator = Callable[[ModelProto, Mapping[str, Factors], Iterable[SeenBatch]], CalibrationTable]
"""Model, what the channels of its tensors are scaled by, and what is seen of the scaled tensors to ranges."""


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedModel:
    """A float model ready for Q/DQ: every image has been seen, so that what stays in float can be chosen afterwards.

    Attributes:
        model: The float model, its channels scaled; answers like the one it came from.
        table: Its ranges.
        effort: What was done so far, and what `insert_and_refine` will do.
        num_groups: Groups of tensors whose channels were scaled.
        sample: Batches that refinement and `settle_ranges` look at, float32 [n, C, H, W]; else empty.
        means: Layer to the means of its output over the sample, float64 [n, C]; empty at effort 0.
        keep_float: Names of nodes that stay in float whatever else does.
    """

    model: ModelProto
    table: CalibrationTable
    effort: Effort
    num_groups: int = 0
    sample: tuple[Images, ...] = ()
    means: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    keep_float: frozenset[str] = frozenset()


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
    effort: Effort
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
    effort: Effort = EFFORTS[DEFAULT_EFFORT],
    track_layers: TrackLayers | None = None,
    keep_float: Collection[str] = (),
) -> QuantizationResult:
    """Return the INT8 model: `scale_and_calibrate`, `settle_ranges`, then `insert_and_refine`.

    Args:
        model: Folded float32 model with one input.
        batches: Preprocessed images, float32 [n, C, H, W]. Consumed once; the first few are kept for the sample.
        open_runtime: Opens the float model, such as `runtimes.OrtRuntime`.
        open_exact: Opens a model so that Q/DQ is computed as written (`OrtRuntime(..., exact_qdq=True)`).
        method: How ranges are chosen; mean squared error by default.
        dialect: Who the file is for.
        effort: Which steps; see the module's first lines.
        track_layers: Wraps the walk through the layers, to show how far it is.
        keep_float: Names of nodes that stay in float.

    Raises:
        CalibrationError: If there was no image, or nothing in the model can be quantized.
        NonFiniteActivationError: If a tensor holds NaN or Inf; the message names tensor and images.
        PlacementError: If Q/DQ cannot be placed, or no node has a name of `keep_float`.
    """
    calibrated = scale_and_calibrate(
        model, batches, open_runtime=open_runtime, method=method, dialect=dialect, effort=effort
    )
    calibrated = settle_ranges(calibrated, open_exact=open_exact)
    return insert_and_refine(calibrated, open_exact=open_exact, track_layers=track_layers, keep_float=keep_float)


def scale_and_calibrate(
    model: ModelProto,
    batches: Iterable[Images],
    *,
    open_runtime: OpenRuntime,
    calibrator: Calibrator | None = None,
    method: Method | None = None,
    dialect: Dialect = Dialect.TENSORRT,
    effort: Effort = EFFORTS[DEFAULT_EFFORT],
) -> CalibratedModel:
    """Return the model with its channels scaled, and its ranges: the part of `quantize` that sees every image.

    Args:
        model: As for `quantize`, and so the others but this one:
        batches: Likewise.
        open_runtime: Likewise.
        calibrator: Gives the ranges, such as from a cache; it need not take all batches. `table_of` by default.
        method: Likewise; when a calibrator is given, the one that it will choose ranges by.
        dialect: Likewise.
        effort: Likewise.
    """
    tensors = tensors_to_observe(place(model, dialect))
    layers = [node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS]
    refines = effort.equalize or effort.correct_biases or effort.round_weights
    needs_sample = refines or isinstance(method, Auto)
    sample, rest = _split(batches, sample_size(model)) if needs_sample else ([], iter(batches))
    observed = observe_batches(
        model,
        tensors,
        chain(sample, rest),
        open_runtime=open_runtime,
        layers=layers if refines else (),
        method=method,
    )
    with closing(observed):
        first = _first_images(observed, sum(map(len, sample)))
        factors = _factors(model, tensors, first) if effort.equalize and sample else {}
        means = _means(first, factors)
        of_tensors = {name: values for group, values in factors.items() for name in group.tensors}
        seen = (batch.scaled(of_tensors) for batch in chain(_taken(first), observed))
        if calibrator is None:
            table = table_of(model, seen, method=method, dialect=dialect, zero_points=effort.zero_points)
        else:
            table = calibrator(model, of_tensors, seen)
    equalized = scale_channels(model, factors).model if factors else model  # a copy, when the session's is gone
    if isinstance(batches, Generator):
        batches.close()  # a calibrator that knew the answer leaves images in it
    return CalibratedModel(equalized, table, effort, num_groups=len(factors), sample=tuple(sample), means=means)


def settle_ranges(
    calibrated: CalibratedModel, *, open_exact: OpenRuntime, track_tensors: TrackTensors | None = None
) -> CalibratedModel:
    """Return the model with its ranges settled where its table has candidates for them (method `Auto`), else as it is.

    Args:
        calibrated: What `scale_and_calibrate` returned; unchanged.
        open_exact: Opens a model so that Q/DQ is computed as written.
        track_tensors: Wraps the walk through the tensors, to show how far it is.
    """
    if not calibrated.table.candidates:
        return calibrated
    table = choose_ranges(
        calibrated.model,
        calibrated.table,
        calibrated.sample,
        open_exact=open_exact,
        corrects_biases=calibrated.effort.correct_biases,
        track=track_tensors,
    )
    return replace(calibrated, table=table)


def insert_and_refine(
    calibrated: CalibratedModel,
    *,
    open_exact: OpenRuntime,
    track_layers: TrackLayers | None = None,
    keep_float: Collection[str] = (),
    round_weights: bool = True,
) -> QuantizationResult:
    """Return the INT8 model of a calibrated one; cheap enough to be called again with other nodes left in float.

    Args:
        calibrated: What `scale_and_calibrate` returned; unchanged.
        open_exact: Opens a model so that Q/DQ is computed as written.
        track_layers: Wraps the walk through the layers.
        keep_float: Names of nodes that stay in float, beside those of the calibrated model.
        round_weights: False leaves out second-order rounding, which takes minutes, where the effort has it.

    Raises:
        PlacementError: If Q/DQ cannot be placed, or no node has a name of `keep_float`.
    """
    effort = replace(calibrated.effort, round_weights=calibrated.effort.round_weights and round_weights)
    plain = insert_qdq(calibrated.model, calibrated.table, keep_float={*calibrated.keep_float, *keep_float})
    result = QuantizationResult(plain, calibrated.table, effort, calibrated.num_groups)
    if not (effort.correct_biases or effort.round_weights) or not plain.placement.weights:
        return _without_zero_points(result, calibrated)
    refined = refine(
        calibrated.model,
        plain.model,
        calibrated.sample,
        calibrated.means,
        open_runtime=open_exact,
        effort=effort,
        track=track_layers,
    )
    result = replace(
        result,
        quantized=replace(plain, model=refined.model),
        refinement=refined.layers,
        num_sample=refined.num_images,
    )
    return _without_zero_points(result, calibrated)


def _without_zero_points(result: QuantizationResult, calibrated: CalibratedModel) -> QuantizationResult:
    """Return the result with the zero points in its biases, where TensorRT wants none."""
    table = calibrated.table
    if table.dialect is not Dialect.TENSORRT or all(kept.dtype == "int8" for kept in table.ranges.values()):
        return result
    model = take_offsets(result.quantized.model, calibrated.model)
    return replace(result, quantized=replace(result.quantized, model=model))


def sample_size(model: ModelProto) -> int:
    """Return how many images fit into `MAX_LIVE_BYTES` while a model is walked, within the limits above.

    Where the size of a tensor is not known, as in windowed attention, the least number.
    """
    try:
        live_bytes = live_bytes_per_image(model)
    except CalibrationError:
        return MIN_SAMPLE
    return min(MAX_SAMPLE, max(MIN_SAMPLE, MAX_LIVE_BYTES // live_bytes))


def _split(batches: Iterable[Images], count: int) -> tuple[list[Images], Iterator[Images]]:
    """Take the first `count` images, fewer where there are no more; return them and what is left."""
    stream = iter(batches)
    taken: list[Images] = []
    while (missing := count - sum(map(len, taken))) and (batch := next(stream, None)) is not None:
        taken.append(batch[:missing])
        if len(batch) > missing:
            return taken, chain([batch[missing:]], stream)
    return taken, stream


def _first_images(batches: Iterator[SeenBatch], count: int) -> list[SeenBatch]:
    """Take the batches of the first `count` images."""
    taken: list[SeenBatch] = []
    while sum(len(batch.images) for batch in taken) < count:
        taken.append(next(batches))
    return taken


def _taken(batches: list[SeenBatch]) -> Iterator[SeenBatch]:
    """Empty a list from its front: what was counted need not be kept."""
    while batches:
        yield batches.pop(0)


def _factors(model: ModelProto, tensors: Iterable[str], seen: Sequence[SeenBatch]) -> dict[ChannelGroup, Factors]:
    """Return the factors of every group that holds a tensor with a range of its own."""
    groups = find_channel_groups(model)
    grouped = {name for group in groups for name in group.tensors}
    largest = {
        name: np.max([batch.observations[name].largest() for batch in seen], axis=0).astype(np.float64)
        for name in tensors
        if name in grouped
    }
    return {
        group: equalizing_factors(group, largest) for group in groups if any(name in largest for name in group.tensors)
    }


def _means(seen: Sequence[SeenBatch], factors: Mapping[ChannelGroup, Factors]) -> dict[str, NDArray[np.float64]]:
    """Return the means of every layer of the model with scaled channels, over all images seen."""
    factors_of = {layer: values for group, values in factors.items() for layer in group.producers}
    return {
        layer: np.concatenate([batch.means[layer] for batch in seen]) * factors_of.get(layer, np.float64(1.0))
        for layer in (seen[0].means if seen else ())
    }
