"""A real saturation, under emulation of a CPU without VNNI: OpenVINO's own kernels, and what we make of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graph_builder import GraphBuilder

from runtimes.openvino.openvino_library import INT8_KERNELS

pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
sys.modules["openvino.tools"] = None  # the converter, a third of importing it, emulated
import numpy as np
import openvino
images = np.full((1, 16, 4, 4), 1.0, np.float32)
answers = {}
for name, properties in (("kernels", {}), ("prevented", {sys.argv[2]: False})):
    core = openvino.Core()
    wanted = {"INFERENCE_PRECISION_HINT": "f32", **properties}
    compiled = core.compile_model(core.read_model(sys.argv[1]), "CPU", wanted)
    answers[name] = float(np.asarray(compiled({0: images})[0]).ravel()[0])
print("ANSWER", json.dumps(answers))
"""


def large_sums() -> GraphBuilder:
    """A 1x1 convolution of UINT8 255 with INT8 127, sixteen times: every pair of products passes 32 767."""
    made = GraphBuilder(channels=16, size=4)
    made.constant("x.scale", np.float32(1 / 255))
    made.constant("x.zero", np.uint8(0))
    made.constant("w", np.full((16, 16, 1, 1), 127, np.int8))
    made.constant("w.scale", np.full(16, 1 / 127, np.float32))
    made.constant("w.zero", np.zeros(16, np.int8))
    made.node("QuantizeLinear", "x.q", "input", "x.scale", "x.zero")
    made.node("DequantizeLinear", "x.dq", "x.q", "x.scale", "x.zero")
    made.node("DequantizeLinear", "w.dq", "w", "w.scale", "w.zero", axis=0)
    made.node("Conv", "conv", "x.dq", "w.dq")
    made.node("Relu", "out", "conv")
    return made


@pytest.mark.slow
def test_without_vnni_the_kernels_saturate_and_ours_do_not(tmp_path):
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("QEMU's user-mode emulation is not installed: apt-get install qemu-user-static")
    model = large_sums().model("out")
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    done = subprocess.run(
        [emulator, "-cpu", "max", sys.executable, "-c", SCRIPT, str(tmp_path / "large.onnx"), INT8_KERNELS],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.partition("ANSWER ")[2])
    assert told["prevented"] == pytest.approx(16.0, rel=1e-4)
    assert told["kernels"] < 10, "the emulated CPU does saturate, so that this test can fail"
