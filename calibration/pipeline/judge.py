"""Keep a further step only where it helps: two INT8 models of one network, judged on images that made neither.

A layer's own error falls by construction, on the images of the sample. Whether the answers come nearer is another
question: where little is left to win it is decided by chance, and half of the time the wrong way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.observers.observe_batches import OpenRuntime
from calibration.observers.split_model import split_model
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.protocol import Runtime

MIN_JUDGES, MAX_JUDGES = 16, 64
"""Images to judge on. The power of a normal error is known from n of its values to a share of sqrt(2 / n), from 64 to
18 % or 0.7 dB; better where many logits err on their own, and both models are judged on the same images."""

MAX_ANSWER_BYTES = 32 * 2**20
"""The float model's answers kept at a time, while the INT8 ones run one after the other: one session in memory instead
of three. Logits of 64 images take a hundredth of it; maps of a segmentation network are looked at in turns."""

Images = NDArray[np.float32]


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
    without: ModelProto,
    with_step: ModelProto,
    images: Sequence[Images],
    *,
    open_exact: OpenRuntime,
) -> Judgement:
    """Return how far two models' answers are from the reference's.

    Args:
        reference: The float model.
        without: Its INT8 model.
        with_step: The other one.
        images: Batches that neither was made with, float32 [n, C, H, W].
        open_exact: Opens a model so that Q/DQ is computed as written.

    Raises:
        ValueError: If there is no image.
        RuntimeAdapterError: If a logit is NaN or Inf.
    """
    meters = LogitMeter(strict=True), LogitMeter(strict=True)
    waiting = deque(images)
    while waiting:
        with open_exact(split_model(reference)) as runtime:
            answered = _answered(runtime, waiting)
        for meter, model in zip(meters, (without, with_step), strict=True):
            with open_exact(model) as runtime:
                for batch, logits in answered:
                    meter.add(logits, _answers(runtime, batch))
    before, after = (meter.report() for meter in meters)
    return Judgement(before, after)


def _answered(runtime: Runtime, waiting: deque[Images]) -> list[tuple[Images, Images]]:
    """Take batches off `waiting` and return them with their answers, until those fill `MAX_ANSWER_BYTES`."""
    answered: list[tuple[Images, Images]] = []
    while waiting and sum(answers.nbytes for _, answers in answered) < MAX_ANSWER_BYTES:
        batch = waiting.popleft()
        answered.append((batch, _answers(runtime, batch)))
    return answered


def _answers(runtime: Runtime, batch: Images) -> Images:
    """Return the first output of each image, float32 [n, values]: logits, or a map of features."""
    answers: Images = first_output(runtime, batch).reshape(len(batch), -1)
    return answers
