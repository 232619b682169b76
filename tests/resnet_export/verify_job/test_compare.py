"""What a file is judged by, and by whom it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_reports import comparison

from resnet_export.verify_job import compare
from resnet_export.verify_job.compare import Compared, ImageSet, Opened, file_reports
from resnet_export.verify_job.sides import OpenCandidate
from resnet_export.verify_job.subject import Candidate
from runtimes.verification.gate_options import read_gates
from runtimes.verification.gates import Verdict, overall

BAD = comparison(3.0, num_images=40)


def verdicts(monkeypatch, versions, precision, *, gates=(), library="onnxruntime"):
    """The verdicts on one file whose logits are far off."""
    monkeypatch.setattr(compare, "installed_versions", lambda: versions)
    candidate = Candidate(Path("model.onnx"), precision, False, True, "0" * 64)
    opened = Opened((OpenCandidate(candidate, None, library, "CPUExecutionProvider", None),))
    images = ImageSet("golden", "40 golden inputs", "PyTorch", None, [])
    compared = [Compared(images, {"model.onnx": BAD}, {}, {})]
    (report,) = file_reports(opened, compared, read_gates(list(gates)))
    return [(gate.name, gate.verdict, gate.sentence) for gate in report.gates]


def test_old_onnxruntime_does_not_fail_int8_with_fp16(monkeypatch):
    """It rounds FP16 scales down: a good file measures 14 dB with 1.23.2, the newest for Python 3.10 on AArch64."""
    found = verdicts(monkeypatch, {"onnxruntime": "1.23.2"}, "int8-fp16")
    assert {verdict for _, verdict, _ in found} == {Verdict.SKIPPED}
    assert all("not judged by onnxruntime 1.23.2" in text and "rounds QuantizeLinear" in text for _, _, text in found)
    assert overall(verdict for _, verdict, _ in found) is Verdict.INCONCLUSIVE, "nor is it a pass"


def test_what_was_asked_for_is_inconclusive(monkeypatch):
    found = verdicts(monkeypatch, {"onnxruntime-gpu": "1.29.0"}, "int8-fp16", gates=["sqnr_db=20"])
    assert {name: verdict for name, verdict, _ in found}["sqnr_db"] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("versions", "precision", "library"),
    [
        ({"onnxruntime": "1.30.0"}, "int8-fp16", "onnxruntime"),
        ({"onnxruntime": "1.23.2"}, "int8", "onnxruntime"),
        ({"onnxruntime": "1.23.2"}, "int8-fp16", "tensorrt"),
        ({"onnxruntime": "1.23.2"}, "fp16", "onnxruntime"),
    ],
)
def test_anything_else_is_judged(monkeypatch, versions, precision, library):
    assert Verdict.FAIL in {verdict for _, verdict, _ in verdicts(monkeypatch, versions, precision, library=library)}
