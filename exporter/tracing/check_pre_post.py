"""Does a finished file answer like the file before its last edits? On real pictures, for every file of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from exporter.errors import ExportCheckError
from exporter.passes.add_pre_post import INDICES, PROBABILITIES, SCORES
from exporter.passes.pre_post_options import Finish
from exporter.tracing.check_export import OpenRuntime
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Array, outputs_of

MAX_RELATIVE_DIFFERENCE = 1e-3
"""Of the largest |logit|: the acceptance bound of the uint8 input. Measured: equal bits on ONNX Runtime's CPU."""

MAX_SCORE_DIFFERENCE = 1e-5
"""Of probabilities, which are 1 at most; float32 sums of 1000 exponentials differ by 1e-6."""

NUM_TOP = 5


@dataclass(frozen=True, slots=True)
class FinishReport:
    """Evidence: largest |difference| and |output|, and on how many images the top 5 are equal (None of features)."""

    num_images: int
    max_abs_diff: float
    max_abs_output: float
    equal_top5: int | None


def expected_outputs(logits: Array, finish: Finish) -> dict[str, Array]:
    """Return what a head makes of logits [n, classes], by the output's name; {} for the logits themselves."""
    scores = AnswerKind.LOGITS.probabilities(logits) if finish.softmax else logits.astype(np.float64)
    if finish.topk is None:
        return {PROBABILITIES: scores.astype(np.float32)} if finish.softmax else {}
    order = np.argsort(-scores, axis=1, kind="stable")[:, : finish.topk]
    return {SCORES: np.take_along_axis(scores, order, axis=1).astype(np.float32), INDICES: order.astype(np.int64)}


def check_finished(
    before: ModelProto,
    finished: ModelProto,
    finish: Finish,
    images: NDArray[np.float32],
    *,
    preprocessing: Preprocessing,
    open_runtime: OpenRuntime,
) -> FinishReport:
    """Compare a finished file with the one it was made of, on normalized images, float32 [n, 3, H, W].

    Raises:
        ExportCheckError: If they differ, with the numbers.
    """
    given = pixels_of(preprocessing, images) if finish.uint8_input else images
    with open_runtime(before) as reference, open_runtime(finished) as candidate:
        plain, got = outputs_of(reference, images), outputs_of(candidate, given)
    logits = next(iter(plain.values()))
    expected = expected_outputs(logits, finish) or plain
    if INDICES in expected:
        _check_top(expected, got)
        return FinishReport(len(images), *_largest({SCORES: expected[SCORES]}, got), len(images))
    diff, largest = _largest(expected, got)
    allowed = MAX_SCORE_DIFFERENCE if finish.softmax else MAX_RELATIVE_DIFFERENCE * largest
    if not diff <= allowed:
        raise ExportCheckError(
            f"the finished file does not answer like the one before: largest |difference| {diff:.3g}, allowed "
            f"{allowed:.3g}; nothing was written"
        )
    return FinishReport(len(images), diff, largest, _equal_top(next(iter(expected.values())), next(iter(got.values()))))


def _largest(expected: Mapping[str, Array], got: Mapping[str, Array]) -> tuple[float, float]:
    diffs = [float(np.abs(expected[name].astype(np.float64) - got[name]).max()) for name in expected]
    return max(diffs), max(float(np.abs(values).max()) for values in expected.values())


def _check_top(expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    """Scores must agree; a class may change places with one of the same score."""
    scores, indices = got[SCORES], got[INDICES]
    scale = float(np.abs(expected[SCORES]).max())
    if scores.shape != expected[SCORES].shape or not np.allclose(
        scores, expected[SCORES], rtol=0, atol=1e-5 * max(scale, 1e-30)
    ):
        raise ExportCheckError("TopK does not give the best scores of the file before; nothing was written")
    differs = indices != expected[INDICES]
    ties = np.isclose(np.diff(expected[SCORES], axis=1), 0, atol=1e-5 * scale)
    tied = np.pad(ties, ((0, 0), (1, 0))) | np.pad(ties, ((0, 0), (0, 1)))
    tied[:, -1] = True  # the last may be tied with the first that is left out
    if bool((differs & ~tied).any()):
        raise ExportCheckError("TopK names other classes than the file before; nothing was written")


def _equal_top(expected: Array, got: Array) -> int | None:
    if expected.ndim != 2:
        return None
    count = min(NUM_TOP, expected.shape[1])
    best = [np.argsort(-values, axis=1, kind="stable")[:, :count] for values in (expected, got)]
    return int(np.all(best[0] == best[1], axis=1).sum())
