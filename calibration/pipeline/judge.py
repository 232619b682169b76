"""Keep a further step only where it helps: two INT8 models of one network, judged on images that made neither.

A layer's own error falls by construction, on the images of the sample. Whether the answers come nearer is another
question: where little is left to win it is decided by chance, and half of the time the wrong way.

The models are run piece by piece, so that no session holds all weights, and up to where they differ once. What the
float model answers has been seen when the ranges were taken.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.observers.observe_batches import OpenRuntime
from calibration.observers.sampled_positions import sampled_answers
from calibration.observers.tensor_bytes import live_bytes_of_nodes
from calibration.refinement.layerwise_walk import LayerwiseWalk
from calibration.refinement.refine import RefinedModel
from exporter.graph.weighted_ops import WEIGHTED_OPS
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter

MIN_JUDGES, MAX_JUDGES = 16, 64
"""Images to judge on. The power of a normal error is known from n of its values to a share of sqrt(2 / n), from 64 to
18 % or 0.7 dB; better where many logits err on their own, and both models are judged on the same images. As many as
refinement takes where that is fewer: where an image takes long."""

MAX_WEIGHTS = 4 * 2**20
"""Weights of one piece, or one layer of more: 16 MB as the session computes with them, a sixth of a ResNet-50."""

BLOCK_LAYERS = 4
"""Layers of a block: so far before the first difference a place is looked for where little is alive."""

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class JudgeBatch:
    """Images that neither model was made with.

    Attributes:
        images: float32 [n, C, H, W].
        answers: What the float model answers, float32 [n, values], as `sampled_answers` gives it.
    """

    images: Images
    answers: Images


@dataclass(frozen=True, slots=True)
class Judgement:
    """What two models answer beside the float one.

    Attributes:
        without: The model without the step in question.
        with_step: The model with it.
    """

    without: LogitComparison
    with_step: LogitComparison

    @property
    def helps(self) -> bool:
        """Whether the step lowers the error and harms neither agreement nor KL divergence."""
        before, after = self.without, self.with_step
        lower = before.sqnr_db is not None and (after.sqnr_db is None or after.sqnr_db > before.sqnr_db)
        return lower and after.kl <= before.kl and after.agreement >= before.agreement


def judge(
    reference: ModelProto,
    without: RefinedModel,
    with_step: RefinedModel,
    batches: Sequence[JudgeBatch],
    *,
    open_exact: OpenRuntime,
) -> Judgement:
    """Return how far two refined models' answers are from the float one's.

    Args:
        reference: The float model.
        without: Its INT8 model without the step.
        with_step: The same network's with it: the same graph and layers.
        batches: At least one.
        open_exact: Opens a model so that Q/DQ is computed as written.

    Raises:
        ValueError: If there is no image.
        RuntimeAdapterError: If a logit is NaN or Inf.
    """
    layers = zip(without.layers, with_step.layers, strict=True)
    parting = next((one.name for one, other in layers if one != other), without.layers[-1].name)
    images = [batch.images for batch in batches]
    fork, cuts = _cuts(reference, parting, [layer.name for layer in without.layers])
    walk = LayerwiseWalk(without.model, images, open_runtime=open_exact, layers=cuts, to_output=True)
    steps = iter(walk)
    next(layer for layer in steps if layer.node.name == fork)
    other = walk.fork(with_step.model)
    before = _compared(steps, walk, batches)
    return Judgement(before, _compared(other, other, batches))


def _cuts(reference: ModelProto, parting: str, names: Sequence[str]) -> tuple[str, set[str]]:
    """Return before which layers the models are run in pieces of at most `MAX_WEIGHTS`, where little is alive.

    Args:
        reference: The float model.
        parting: The first layer in which two models differ.
        names: Layers, in graph order.

    Returns:
        The layer to share the way to, at or before `parting`; and all layers to cut before.
    """
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in reference.graph.initializer}
    try:
        live_bytes = live_bytes_of_nodes(reference)
    except CalibrationError:  # windowed attention
        live_bytes = [0] * len(reference.graph.node)
    known = {
        node.name: (sizes.get(node.input[1], 0), live)
        for node, live in zip(reference.graph.node, live_bytes, strict=True)
        if node.op_type in WEIGHTED_OPS
    }
    weights, live = zip(*(known[name] for name in names), strict=True)
    ends = list(accumulate(weights))

    def least(start: int, stop: int) -> int:
        return min(range(start, stop), key=lambda place: (live[place], -place))

    last = names.index(parting)
    fork = least(max(0, last + 1 - BLOCK_LAYERS), last + 1)
    cuts = {fork}
    for start, stop in ((0, fork), (fork, len(names))):
        while (behind := bisect_right(ends, ends[start] - weights[start] + MAX_WEIGHTS, lo=start + 1)) < stop:
            start = least(start + 1, behind + 1)
            cuts.add(start)
    return names[fork], {names[place] for place in cuts}


def _compared(steps: Iterable[object], walk: LayerwiseWalk, batches: Sequence[JudgeBatch]) -> LogitComparison:
    """Take the steps that are left of a walk and compare what it answers."""
    for _ in steps:
        pass
    meter = LogitMeter(strict=True)
    for batch, answers in zip(batches, walk.answers(), strict=True):
        meter.add(batch.answers, sampled_answers(answers))
    return meter.report()
