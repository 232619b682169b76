"""From a float model and images to the INT8 model: equalize, calibrate, place Q/DQ, refine.

    effort 0   ranges from every image, nothing else
    effort 1   + channels scaled to use the range (cross_layer_equalization), zero points where biases can take them
                 (placement.offset_tensors); then, layer by layer, weights rounded for the layer's output and biases
                 corrected (refinement.refine)
    effort 2   + the same for layers of any width, kept where it helps on images that refinement has not seen (judge)

Each step is measured alone and together with the others in docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.methods.builtin_methods import Auto
from calibration.methods.dialect import Dialect
from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS, Effort
from calibration.methods.method import Method
from calibration.observers.observe_batches import OpenRuntime, SeenBatch, observe_batches
from calibration.pipeline.judge import MAX_JUDGES, MIN_JUDGES, JudgeBatch, Judgement, judge
from calibration.pipeline.refinement_sample import images_per_layer, take_images
from calibration.placement.place import place
from calibration.qdq.insert_qdq import QuantizedModel, insert_qdq
from calibration.qdq.offsets import take_offsets
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import table_of, tensors_to_observe
from calibration.refinement.channel_groups import ChannelGroup, find_channel_groups
from calibration.refinement.choose_ranges import TrackTensors, choose_ranges
from calibration.refinement.cross_layer_equalization import Factors, equalizing_factors, largest_sums, scale_channels
from calibration.refinement.refine import LayerRefinement, RefinedModel, TrackLayers, refine, wide_layers
from runtimes.machine.free_memory import give_back_free_memory

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
        judges: Batches behind the sample that a further step is judged on; empty where there is none to judge.
        keep_float: Names of nodes that stay in float whatever else does.
    """

    model: ModelProto
    table: CalibrationTable
    effort: Effort
    num_groups: int = 0
    sample: tuple[Images, ...] = ()
    judges: tuple[JudgeBatch, ...] = ()
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
        num_sample: Images that refinement looked at; equalization and the first layers at fewer where these are large.
        wide_layers: What rounding the widest layers too was found to do, at effort 2; None where it was not judged.
        unjudged: Names of the widest layers that effort 2 left alone, because too few images were left to judge it.
    """

    quantized: QuantizedModel
    table: CalibrationTable
    effort: Effort
    num_groups: int = 0
    refinement: tuple[LayerRefinement, ...] = ()
    num_sample: int = 0
    wide_layers: Judgement | None = None
    unjudged: tuple[str, ...] = ()


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
    refines = effort.equalize or effort.correct_biases or effort.round_weights
    needs_sample = refines or isinstance(method, Auto)
    counts = tuple(images_per_layer(model).values()) if needs_sample else ()
    sample, rest = take_images(batches, max(counts, default=0))
    observed = observe_batches(
        model,
        tensors,
        chain(sample, rest),
        open_runtime=open_runtime,
        method=method,
        answers=effort.thorough,
    )
    with closing(observed):
        num_sample = sum(map(len, sample))
        first = _first_images(observed, min(num_sample, min(counts, default=0)))
        factors = _factors(model, tensors, first) if effort.equalize and sample else {}
        of_tensors = {name: values for group, values in factors.items() for name in group.tensors}
        judges: list[JudgeBatch] = []
        num_judges = min(MAX_JUDGES, max(counts, default=0)) if effort.thorough else 0
        batches_seen = _noting(judges, chain(_taken(first), observed), num_sample, num_judges)
        seen = (batch.scaled(of_tensors) for batch in batches_seen)
        if calibrator is None:
            table = table_of(model, seen, method=method, dialect=dialect, zero_points=effort.zero_points)
        else:
            table = calibrator(model, of_tensors, seen)
        while _num_images(judges) < num_judges and next(batches_seen, None):
            pass  # the calibrator knew the ranges, but nobody knows the answers
    give_back_free_memory()  # the session is closed
    equalized = scale_channels(model, factors).model if factors else model  # a copy, when the session's is gone
    if isinstance(batches, Generator):
        batches.close()  # a calibrator that knew the answer leaves images in it
    return CalibratedModel(equalized, table, effort, len(factors), tuple(sample), tuple(judges))


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
    first = min(images_per_layer(calibrated.model).values(), default=0)
    table = choose_ranges(
        calibrated.model,
        calibrated.table,
        take_images(calibrated.sample, first)[0],
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
    refined, judgement = _refine(calibrated, plain.model, effort, open_exact, track_layers)
    lacks_judges = effort.thorough and effort.round_weights and not _has_judges(calibrated)
    result = replace(
        result,
        quantized=replace(plain, model=refined.model),
        refinement=refined.layers,
        num_sample=refined.num_images,
        wide_layers=judgement,
        unjudged=wide_layers(refined.model) if lacks_judges else (),
    )
    return _without_zero_points(result, calibrated)


def _refine(
    calibrated: CalibratedModel, plain: ModelProto, effort: Effort, open_exact: OpenRuntime, track: TrackLayers | None
) -> tuple[RefinedModel, Judgement | None]:
    """Return the refined model, and what the judges say of the widest layers."""
    give_back_free_memory()  # of the model that was made
    refined, thorough = refine(
        calibrated.model,
        plain,
        calibrated.sample,
        open_runtime=open_exact,
        effort=effort,
        counts=images_per_layer(calibrated.model),
        track=track,
        also_thorough=effort.thorough and effort.round_weights and _has_judges(calibrated),
    )
    if thorough is None:
        return refined, None
    give_back_free_memory()  # of the two walks
    judgement = judge(calibrated.model, refined, thorough, calibrated.judges, open_exact=open_exact)
    return (thorough if judgement.helps else refined), judgement


def _without_zero_points(result: QuantizationResult, calibrated: CalibratedModel) -> QuantizationResult:
    """Return the result with the zero points in its biases, where TensorRT wants none."""
    table = calibrated.table
    if table.dialect is not Dialect.TENSORRT or all(kept.dtype == "int8" for kept in table.ranges.values()):
        return result
    model = take_offsets(result.quantized.model, calibrated.model)
    return replace(result, quantized=replace(result.quantized, model=model))


def _first_images(batches: Iterator[SeenBatch], count: int) -> list[SeenBatch]:
    """Take the batches of the first `count` images."""
    taken: list[SeenBatch] = []
    while _num_images(taken) < count:
        taken.append(next(batches))
    return taken


def _has_judges(calibrated: CalibratedModel) -> bool:
    return _num_images(calibrated.judges) >= MIN_JUDGES


def _num_images(batches: Iterable[SeenBatch | JudgeBatch]) -> int:
    return sum(len(batch.images) for batch in batches)


def _taken(batches: list[SeenBatch]) -> Iterator[SeenBatch]:
    """Empty a list from its front: what was counted need not be kept."""
    while batches:
        yield batches.pop(0)


def _noting(
    judges: list[JudgeBatch], batches: Iterable[SeenBatch], num_sample: int, num_judges: int
) -> Iterator[SeenBatch]:
    """Yield the batches; note what judges need of those behind the sample, whose images fill whole batches."""
    passed = 0
    for batch in batches:
        missing = num_judges - _num_images(judges)
        if passed >= num_sample and missing:
            judges.append(JudgeBatch(batch.images[:missing], batch.answers[:missing]))
        passed += len(batch.images)
        yield batch


def _factors(model: ModelProto, tensors: Iterable[str], seen: Sequence[SeenBatch]) -> dict[ChannelGroup, Factors]:
    """Return the factors of every group that holds a tensor with a range of its own."""
    groups = find_channel_groups(model)
    peaks = {name: [batch.observations[name].largest() for batch in seen] for name in tensors}
    largest = {
        name: np.max(found, axis=0).astype(np.float64)
        for name, found in peaks.items()
        if len({len(each) for each in found}) == 1  # else its axis 1 is the batch, as inside of nn.MultiheadAttention
    }
    sums = largest_sums(model, groups, largest)
    return {
        group: equalizing_factors(group, largest, sums=sums)
        for group in groups
        if any(name in largest for name in group.tensors)
    }
