"""The gate `hard_frames`: does a file answer on a black frame, a white one, one of one color, and on noise?

A bundle's `golden.npz` keeps these frames and PyTorch's answers apart from the photographs (`hard_input`,
`hard_logits`): no share of equal answers is asked there, since INT8 was calibrated on no such picture. Asked is that
every answer is finite, and no further off than the precision explains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_export.verify_job.compare import Opened
from resnet_export.verify_job.sides import OpenCandidate, logits_of
from resnet_export.verify_job.subject import Golden, Subject
from runtimes.bundle.precision import is_int8
from runtimes.side_by_side import Streams
from runtimes.verification.gates import GateResult, Verdict
from runtimes.verification.report import FileReport

NAME = "hard_frames"

MAX_RELATIVE_DIFFERENCE = {"fp32": 1e-4, "fp16": 0.05}
"""Of the largest |answer| on the golden inputs and these frames; see `exporter.tracing.check_hard_frames`."""

MAX_INT8_DIFFERENCE = 3.0
"""Likewise of INT8: what is further off is no rounding and no clipping, but garbage."""


def judge_hard_frames(subject: Subject, opened: Opened, files: Sequence[FileReport]) -> None:
    """Add the gate to the report of every file of a bundle that keeps such frames, in place."""
    golden = subject.golden
    if golden is None or golden.hard_inputs is None or golden.hard_logits is None:
        return
    reports = {report.name: report for report in files}
    for one in opened.candidates:
        if one.candidate.name in reports:
            reports[one.candidate.name].gates.append(_judge(one, golden, opened.streams))


def _judge(one: OpenCandidate, golden: Golden, streams: Streams) -> GateResult:
    assert golden.hard_inputs is not None
    assert golden.hard_logits is not None
    precision = one.candidate.precision
    allowed = MAX_INT8_DIFFERENCE if is_int8(precision) else MAX_RELATIVE_DIFFERENCE.get(precision, 0.05)
    known = np.isfinite(golden.hard_logits).all(axis=1)
    if not known.any():
        sentence = "the reference itself gives NaN or Inf on black, white, one-colored and noise frames"
        return GateResult(NAME, "golden", Verdict.SKIPPED, sentence, allowed)
    got = logits_of(one.runtime, golden.hard_inputs, streams)[known]
    if not np.isfinite(got).all():
        sentence = "gives NaN or Inf on a black, white, one-colored or noise frame, where the reference does not"
        return GateResult(NAME, "golden", Verdict.FAIL, sentence, allowed)
    wanted = golden.hard_logits[known]
    largest = max(float(np.abs(wanted).max()), float(np.abs(golden.logits).max()))
    share = float(np.abs(got - wanted).max()) / largest if largest else 0.0
    fits = share <= allowed
    relation = "at most" if fits else "above"
    sentence = (
        f"black, white, one-colored and noise frames: largest |difference| over largest |answer| {share:.3g} is "
        f"{relation} {allowed:g}"
    )
    return GateResult(NAME, "golden", Verdict.PASS if fits else Verdict.FAIL, sentence, allowed, share)
