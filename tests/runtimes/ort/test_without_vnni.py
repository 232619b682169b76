"""Real saturation: ONNX Runtime on an emulated x86 that has AVX2 and no VNNI (QEMU's `-cpu max`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from plain_sessions import session_answers, sqnr_db

from calibration.methods.dialect import Dialect
from calibration.placement import for_onnxruntime
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from runtimes.ort.adapter import OrtRuntime

WORKER = Path(__file__).parents[3] / "benchmarks" / "session_workers" / "worker.py"
EMULATOR = shutil.which("qemu-x86_64-static")

IMAGES = np.random.default_rng(3).uniform(-1, 1, (6, 3, 12, 12)).astype(np.float32) + np.float32(0.4)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EMULATOR is None, reason="qemu-x86_64-static is missing: apt-get install qemu-user-static"),
]


def network() -> onnx.ModelProto:
    """Weights of one sign in the first layer, so that neighbouring products add up; of both signs in the second one."""
    graph = GraphBuilder(channels=3, size=12, seed=2)
    weight = np.abs(graph.random.normal(0.5, 0.2, (8, 3, 3, 3))).astype(np.float32)
    graph.conv("first", "input", 8, weight=graph.constant("first.weight", weight))
    graph.gemm("fc", graph.node("Relu", "relu", "first"), 5, transB=1)
    signs = np.where(np.arange(8) % 2, -1, 1) * graph.random.uniform(0.5, 1, (5, 1))
    graph.constant("fc.weight", (signs * graph.random.uniform(0.8, 1, (5, 8))).astype(np.float32))
    return graph.model("fc", opset=20)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    table = calibrate(model, [IMAGES], open_runtime=partial(OrtRuntime), dialect=Dialect.ONNXRUNTIME)
    return insert_qdq(model, table).model


def emulated(folder: Path, models: dict[str, onnx.ModelProto]) -> dict[str, np.ndarray]:
    """Return what plain sessions answer on a CPU without VNNI."""
    paths = []
    for name, model in models.items():
        paths.append(folder / f"{name}.onnx")
        onnx.save(model, paths[-1])
    np.save(folder / "images.npy", IMAGES)
    packages = Path(onnxruntime.__file__).parents[1]
    words = [str(WORKER), "onnxruntime", str(packages), str(folder / "images.npy"), str(folder / "answers.npz")]
    command = [EMULATOR, "-cpu", "max", sys.executable, *words, *map(str, paths)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    with np.load(folder / "answers.npz") as found:
        return {name: found[f"{name}.onnx"].astype(np.float64) for name in models}


def test_seven_bits_in_the_first_layer_do_not_saturate(tmp_path, monkeypatch):
    model = network()
    seven = quantized(model)
    monkeypatch.setattr(for_onnxruntime, "QMAX_7_BITS", 127)
    eight = quantized(model)
    expected = session_answers(model, IMAGES, plain=False)
    found = emulated(tmp_path, {"seven": seven, "eight": eight})
    written = [sqnr_db(expected, session_answers(one, IMAGES, plain=False)) for one in (seven, eight)]
    assert sqnr_db(expected, found["seven"]) > written[0] - 1
    assert sqnr_db(expected, found["eight"]) < written[1] - 10  # else nothing saturates here, and nothing is shown
