"""Run images through the model once and keep, for every tensor that will be quantized, its range.

What leaves the session is small (see `observers.observe_batches`), so memory is one batch of activations inside the
session plus a fixed histogram of |x| per tensor, whatever the number of images, and the result does not depend on how
the images are batched. While one batch runs, a thread counts the one before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import CANDIDATES, Auto, MeanSquaredError
from calibration.methods.dialect import Dialect, ZeroPoints
from calibration.methods.histogram import Histogram
from calibration.methods.method import Method, describe
from calibration.observers.activation_summary import ActivationSummary, Observed, coarse_histogram, typical_abs
from calibration.observers.convergence import ConvergenceTracker, noted_counts
from calibration.observers.input_statistics import InputCollector
from calibration.observers.observe_batches import OpenRuntime, SeenBatch, observe_batches
from calibration.observers.probes import Observation
from calibration.placement.for_tensorrt import Placement
from calibration.placement.offset_tensors import offset_tensors
from calibration.placement.place import place
from calibration.ranges.activation_range import activation_range
from calibration.ranges.calibration_table import CalibrationTable, TensorRange

Images = NDArray[np.float32]


def calibrate(
    model: ModelProto,
    batches: Iterable[Images],
    *,
    open_runtime: OpenRuntime,
    method: Method | None = None,
    dialect: Dialect = Dialect.TENSORRT,
    zero_points: ZeroPoints = ZeroPoints.NONE,
) -> CalibrationTable:
    """Return the range of every tensor that the dialect wants quantized.

    Args:
        model: Folded float32 model with one input.
        batches: Preprocessed images, float32 [n, C, H, W]; n may differ between batches. Consumed once.
        open_runtime: Opens a model, such as `runtimes.OrtRuntime`; closed at the end.
        method: How to get from histogram to amax; mean squared error by default.
        dialect: Who the file is for; the table carries it to `insert_qdq`.
        zero_points: What takes those of tensors in TensorRT's dialect.

    Returns:
        The table, in graph order.

    Raises:
        CalibrationError: If there was no image or nothing in the model can be quantized.
        NonFiniteActivationError: If a tensor holds NaN or Inf; the message names tensor and images.
    """
    tensors = tensors_to_observe(place(model, dialect))
    with closing(observe_batches(model, tensors, batches, open_runtime=open_runtime, method=method)) as seen:
        return table_of(model, seen, method=method, dialect=dialect, zero_points=zero_points)


def table_of(
    model: ModelProto,
    seen: Iterable[SeenBatch],
    *,
    method: Method | None = None,
    dialect: Dialect = Dialect.TENSORRT,
    zero_points: ZeroPoints = ZeroPoints.NONE,
) -> CalibrationTable:
    """Return the table of a model whose tensors are being observed: the part of `calibrate` that needs no session.

    Args:
        model: As for `calibrate`, and so the others but this one:
        seen: Every batch with what was seen of `tensors_to_observe`. Consumed once.
        method: Likewise.
        dialect: Likewise.
        zero_points: Likewise.
    """
    chosen = MeanSquaredError() if method is None else method
    placement = place(model, dialect)
    tensors = tensors_to_observe(placement)
    asymmetric: Collection[str] = tensors if dialect is Dialect.ONNXRUNTIME else ()
    if zero_points is not ZeroPoints.NONE and dialect is Dialect.TENSORRT:
        asymmetric = offset_tensors(model, placement, pads=zero_points is ZeroPoints.PADS)
    collector = collect_ranges(
        tensors, seen, method=chosen, shared_scales=placement.shared_scales, asymmetric=frozenset(asymmetric)
    )
    observed = collector.observed()
    sources = _sources(placement)
    ranges = {name: collector.range_of(name) for name in tensors}
    candidates = {}
    for other in CANDIDATES[1:] if isinstance(chosen, Auto) else ():
        collector.method = other
        of_other = {name: collector.range_of(name) for name in tensors}
        candidates[str(describe(other)["name"])] = {name: of_other[source] for name, source in sources.items()}
    return CalibrationTable(
        ranges={name: ranges[source] for name, source in sources.items()},
        method=describe(chosen),
        num_images=collector.num_images,
        input_mean=observed.input.mean,
        input_std=observed.input.std,
        observed=observed,
        dialect=dialect,
        candidates=candidates,
    )


def collect_ranges(
    tensors: Sequence[str],
    seen: Iterable[SeenBatch],
    *,
    method: Method,
    shared_scales: tuple[tuple[str, ...], ...] = (),
    asymmetric: frozenset[str] = frozenset(),
) -> RangeCollector:
    """Count what was seen of some tensors; while a thread counts one batch, the next one is run.

    Args:
        tensors: Names, at least one.
        seen: Batches in which they were observed. Consumed once.
        method: How to get from histogram to amax.
        shared_scales: Groups of tensors that have one range.
        asymmetric: Tensors with a zero point.

    Raises:
        CalibrationError: If there was no image.
    """
    collector = RangeCollector(tuple(tensors), method, shared_scales, asymmetric)
    with ThreadPoolExecutor(1, "count") as counter:
        counting: Future[None] | None = None
        for batch in seen:
            if counting is not None:
                counting.result()  # raises what went wrong there
            counting = counter.submit(collector.add, batch.images.copy(), batch.observations)
            del batch  # else it would live through the next run
        if counting is not None:
            counting.result()
    if not collector.num_images:
        raise CalibrationError("no calibration image was given; there is no default data set")
    return collector


def tensors_to_observe(placement: Placement) -> tuple[str, ...]:
    """Return the tensors whose ranges have to be known, in graph order.

    Raises:
        CalibrationError: If there is none.
    """
    tensors = tuple(dict.fromkeys(_sources(placement).values()))
    if not tensors:
        raise CalibrationError(
            "the model has no Conv, Gemm or MatMul with a constant weight; there is nothing to quantize"
        )
    return tensors


def _sources(placement: Placement) -> dict[str, str]:
    """Return quantized tensor to the one whose range it takes."""
    return {name: placement.same_range.get(name, name) for name in placement.activations}


@dataclass(slots=True)
class RangeCollector:
    """Histograms and exact extremes of the named tensors, and what the input looks like, over all batches added.

    Attributes:
        tensors: Their names.
        method: How to get from histogram to amax.
        shared_scales: Groups of tensors that have one histogram, and so one range: that of all their values together.
        asymmetric: Tensors with a zero point.
        histograms: Tensor name to the counts of the sample, over the range of all values.
        extremes: Tensor name to (least, largest value), exact; the least is 0 where the graph allows none below.
        num_images: How many were added.
    """

    tensors: tuple[str, ...]
    method: Method
    shared_scales: tuple[tuple[str, ...], ...] = ()
    asymmetric: frozenset[str] = frozenset()
    histograms: dict[str, Histogram] = field(init=False)
    extremes: dict[str, tuple[float, float]] = field(init=False, default_factory=dict)
    num_images: int = field(init=False, default=0)
    _channels: dict[str, NDArray[np.float32]] = field(init=False, default_factory=dict)
    _input: InputCollector = field(init=False, default_factory=InputCollector)
    _tracker: ConvergenceTracker = field(init=False)

    def __post_init__(self) -> None:
        """Start one empty histogram per tensor, or per group."""
        self.histograms = {name: Histogram() for name in self.tensors}
        for group in self.shared_scales:
            self.histograms.update(dict.fromkeys(group, Histogram()))
        self._tracker = ConvergenceTracker(lambda name, _: self.range_of(name).amax)

    def range_of(self, name: str) -> TensorRange:
        """Return the range of a tensor, from what was added so far."""
        return activation_range(
            self.method, self.histograms[name], *self.extremes[name], asymmetric=name in self.asymmetric
        )

    def add(self, images: Images, observations: Mapping[str, Observation]) -> None:
        """Add one batch, all of it finite.

        Args:
            images: The model input, float32 [n, C, H, W], n >= 1.
            observations: Of every tensor.
        """
        start = 0
        for count in (*noted_counts(self.num_images, self.num_images + len(images)), self.num_images + len(images)):
            stop = count - self.num_images
            for name in self.tensors if stop > start else ():
                seen = observations[name]
                if len(seen.maximum) == len(images):
                    self._add_images(name, seen, start, stop)
                elif start == 0:  # the images lie on another axis, as inside of nn.MultiheadAttention
                    self._add_images(name, seen, 0, len(seen.maximum))
            if count.bit_count() == 1:
                self._tracker.note(count, self.histograms)
            start = stop
        for name in self.tensors:
            seen = observations[name]
            channels = np.stack([seen.maximum.max(axis=0), -seen.minimum.min(axis=0)])
            before = self._channels.get(name, channels)
            if channels.shape != before.shape:  # so there, too: as one channel
                channels, before = (each.max(axis=1, keepdims=True) for each in (channels, before))
            self._channels[name] = np.maximum(channels, before)
        self._input.add(images)
        self.num_images += len(images)

    def _add_images(self, name: str, seen: Observation, start: int, stop: int) -> None:
        """Add the images `start` to `stop` of a batch to one tensor's histogram and extremes."""
        low, high = float(seen.minimum[start:stop].min()), float(seen.maximum[start:stop].max())
        first = seen.ends[start - 1] if start else 0
        self.histograms[name].add(seen.sample[first : seen.ends[stop - 1]], max_abs=max(high, -low))
        before = self.extremes.get(name, (low, high))
        self.extremes[name] = (min(low, before[0]), max(high, before[1]))

    def observed(self) -> Observed:
        """Return what was seen besides the ranges; at least one image must have been added."""
        self._tracker.note(self.num_images, self.histograms)
        return Observed(
            convergence=self._tracker.convergence(),
            input=self._input.statistics(),
            activations={name: self._summary(name) for name in self.tensors},
        )

    def _summary(self, name: str) -> ActivationSummary:
        largest, minus_least = self._channels[name]
        dead = tuple(int(channel) for channel in np.flatnonzero(largest <= 0))
        sizes = np.maximum(largest, minus_least)
        quartile = float(np.percentile(sizes[sizes > 0], 25)) if sizes.any() else 0.0
        histogram = self.histograms[name]
        coarse = coarse_histogram(histogram)
        return ActivationSummary(*self.extremes[name], typical_abs(histogram), len(sizes), dead, quartile, coarse)
