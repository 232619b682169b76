"""The evaluator on a tiny model, beside onnx's reference evaluator and NumPy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from benchmarks.quantizer_evaluate import EXACT, MODES, logits_of
from benchmarks.quantizer_statistics import compare_logits
from calibration import calibrate, insert_qdq
from runtimes import OrtRuntime

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantizer_evaluate.py"
SEED = 5


@pytest.fixture
def work_folder(tmp_path):
    """model.onnx, its INT8 file, 12 calibration images and 20 labelled validation images."""
    graph = GraphBuilder(seed=SEED)
    graph.gemm("fc", graph.node("Relu", "relu", graph.conv("conv", "input", 4)), 3, transB=1)
    model = graph.model("fc", opset=20)
    random = np.random.default_rng(SEED)
    calibration = random.normal(size=(12, 2, 8, 8)).astype(np.float32)
    validation = random.normal(size=(20, 2, 8, 8)).astype(np.float32)
    table = calibrate(model, iter([calibration]), open_runtime=OrtRuntime)
    onnx.save_model(model, tmp_path / "model.onnx")
    onnx.save_model(insert_qdq(model, table).model, tmp_path / "ours.onnx")
    np.save(tmp_path / "calibration.npy", calibration)
    np.save(tmp_path / "validation.npy", validation)
    np.save(tmp_path / "labels.npy", random.integers(0, 3, 20))
    (tmp_path / "files.json").write_text(json.dumps({"ours.onnx": [EXACT]}))
    return tmp_path


def evaluated(what: str, folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), what, str(folder)], capture_output=True, text=True, check=True, cwd=folder
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_exact_is_the_file_as_written(work_folder):
    images = np.load(work_folder / "validation.npy")
    reference = ReferenceEvaluator(str(work_folder / "ours.onnx")).run(None, {"input": images})[0]
    np.testing.assert_allclose(
        logits_of(work_folder / "ours.onnx", images, EXACT), reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max()
    )


def test_accuracy_is_that_of_the_logits(work_folder):
    images = np.load(work_folder / "validation.npy")
    labels = np.load(work_folder / "labels.npy").tolist()
    reference = ReferenceEvaluator(str(work_folder / "model.onnx")).run(None, {"input": images})[0]
    candidate = ReferenceEvaluator(str(work_folder / "ours.onnx")).run(None, {"input": images})[0]
    expected = compare_logits(reference, candidate, labels).to_json()
    got = evaluated("accuracy", work_folder)["ours.onnx"][EXACT]
    assert got == pytest.approx(expected, rel=1e-3)
    assert got["num_images"] == 20


def test_a_file_that_does_not_run_is_a_result(work_folder):
    (work_folder / "broken.onnx").write_bytes(b"not a model")
    (work_folder / "files.json").write_text(json.dumps({"broken.onnx": [EXACT], "ours.onnx": list(MODES)}))
    accuracy, latency = evaluated("accuracy", work_folder), evaluated("latency", work_folder)
    assert "InvalidProtobuf" in accuracy["broken.onnx"][EXACT]["error"]
    assert set(accuracy["ours.onnx"]) == set(MODES)
    assert "InvalidProtobuf" in latency["broken.onnx"]["error"]
    assert latency["ours.onnx"]["p50_ms"] > 0
    assert latency["model.onnx"]["p50_ms"] > 0
