"""The gate `hard_frames`: finite and near on frames that are no photographs, whatever is said of the photographs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from resnet_export.verify_job.compare import Opened
from resnet_export.verify_job.hard_frames import NAME, judge_hard_frames
from resnet_export.verify_job.sides import OpenCandidate
from resnet_export.verify_job.subject import Candidate, Golden, Subject, read_subject
from runtimes.io.npz import load_npz
from runtimes.verification.report import FileReport

LOGITS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def judged(answers, precision="fp32", *, stored=LOGITS):
    inputs = np.zeros((4, 3, 8, 8), np.float32)
    runtime = SimpleNamespace(
        input_specs={"x": SimpleNamespace(shape=(None, 3, 8, 8))},
        output_specs={"y": None},
        run=lambda given: {"y": answers[: len(given["x"])]},
    )
    candidate = Candidate(Path("model.onnx"), precision, False, True, "0" * 64)
    golden = Golden(inputs, LOGITS, inputs, stored)
    subject = Subject(Path("b"), "bundle", "m", (candidate,), golden=golden)
    report = FileReport("model.onnx", precision, "onnxruntime", None, None, None)
    judge_hard_frames(subject, Opened((OpenCandidate(candidate, runtime, "onnxruntime", None, None),)), [report])
    (gate,) = report.gates
    assert gate.name == NAME
    return gate


@pytest.mark.parametrize(
    ("precision", "error", "verdict"),
    [
        ("fp32", 1e-6, "pass"),
        ("fp32", 1e-2, "fail"),
        ("fp16", 1e-2, "pass"),
        ("fp16", 0.5, "fail"),
        ("int8", 0.5, "pass"),
        ("int8-fp16", 20.0, "fail"),
    ],
)
def test_as_near_as_the_precision_allows(precision, error, verdict):
    assert judged(LOGITS + np.float32(error), precision).verdict.value == verdict


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_fails_in_every_precision(precision, bad):
    answers = LOGITS.copy()
    answers[0, 1] = bad
    gate = judged(answers, precision)
    assert gate.verdict.value == "fail"
    assert "NaN or Inf" in gate.sentence


def test_where_the_reference_is_not_finite_nothing_is_asked():
    assert judged(LOGITS, stored=np.full_like(LOGITS, np.nan)).verdict.value == "skipped"
    one = LOGITS.copy()
    one[0] = np.nan
    assert judged(LOGITS, stored=one).verdict.value == "pass"


def test_a_bundle_keeps_the_frames_apart_from_the_photographs(digits_bundle):
    arrays = load_npz(digits_bundle / "golden.npz")
    assert len(arrays["input"]) == 16
    assert arrays["hard_input"].shape == (4, *arrays["input"].shape[1:])
    golden = read_subject(digits_bundle, (), provider="cpu").golden
    assert golden.hard_logits.shape == (4, golden.logits.shape[1])
    assert not any(np.array_equal(frame, photo) for frame in golden.hard_inputs for photo in golden.inputs)
