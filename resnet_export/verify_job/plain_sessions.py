"""The gate `plain_session`: does an INT8 file answer in any ONNX Runtime session as it says?

INT8 files for TensorRT are judged as they are written, the way TensorRT computes them. But whoever opens such a file in
ONNX Runtime without asking for anything, as Triton does, gets other kernels. Their answers are compared with the
reference's too, on the golden inputs or the package's photographs: they may be no further off than the file is itself
(`runtimes.ort.plain_session`). Not asked of engines, nor of another provider than the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_export.console.reporter import Reporter
from resnet_export.verify_job.compare import Compared, ImageSet, Opened, ReferenceBatch
from resnet_export.verify_job.sides import OpenCandidate, as_taken, logits_of, with_logits
from resnet_export.verify_job.subject import Subject
from runtimes.bundle.precision import is_int8
from runtimes.side_by_side import Streams
from runtimes.verification.gates import GateResult, Verdict
from runtimes.verification.report import FileReport

NAME = "plain_session"


def judge_plain_sessions(
    subject: Subject, opened: Opened, compared: Sequence[Compared], files: Sequence[FileReport], reporter: Reporter
) -> list[dict[str, str]]:
    """Add the gate to the reports of INT8 ONNX files, in place; return what made one fail."""
    again = next((part.images for part in compared if isinstance(part.images.batches, list)), None)
    if again is None or subject.provider != "cpu":
        return []
    causes = []
    reports = {report.name: report for report in files}
    for one in opened.candidates:
        if one.inference_library != "onnxruntime" or not is_int8(one.candidate.precision):
            continue
        result, cause = _judge(one, subject, again, reporter, opened.streams)
        reports[one.candidate.name].gates.append(result)
        if cause:
            causes.append({"file": one.candidate.name, "sentence": cause})
    return causes


def _judge(
    one: OpenCandidate, subject: Subject, images: ImageSet, reporter: Reporter, streams: Streams
) -> tuple[GateResult, str]:
    """Return the gate's result and, where it fails, the cause."""
    from runtimes.ort.plain_session import compare_plain_session

    (batch,) = list(images.batches)
    assert isinstance(batch, ReferenceBatch)
    path = one.candidate.path
    model = with_logits(path, subject.finish) if subject.finish.changes_output else path
    inputs = batch.inputs if images.preprocessing is None else as_taken(one.runtime, batch.inputs, images.preprocessing)
    written = logits_of(one.runtime, inputs, streams) if one.candidate.exact_qdq else None
    found = compare_plain_session(model, inputs, batch.logits(), written)
    verdict = Verdict.PASS if found.agrees else Verdict.SKIPPED if found.saturates else Verdict.FAIL
    if found.saturates:
        reporter.warn(f"{path.name}: {found.sentence}")
    limit, measured = _finite(found.least_db), _finite(found.plain_db)
    result = GateResult(NAME, images.on, verdict, found.sentence, limit, measured, unit=" dB")
    return result, found.cause if verdict is Verdict.FAIL else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
