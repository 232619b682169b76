#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), IREE 3.13.0 (compiler and runtime, llvm-cpu), onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its
#        reference evaluator), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: an AveragePool that counts its padding (PyTorch's default) and rounds its size up divides the last window by what of
#        it lies on the padded picture, as PyTorch, ONNX Runtime and the reference do: the padding is counted, what the
#        window would need beyond it is not. Without counting, and without rounding up, all of them agree.
# Seen:  OpenVINO and IREE divide every window by its full 9 places. AvgPool2d(3, 2, padding=1, ceil_mode=True) of a picture
#        of ones of 8 x 8 ends in a row and a column of 0.22 instead of 0.33, and in 0.11 instead of 0.25 in the corner:
#        36 % of the map is too dark. At an odd size no window reaches beyond the padding, and all agree. Nothing warns.
# Output seen: "ones, 8 x 8: corner onnxruntime 0.25, reference 0.25, openvino 0.11, iree 0.11; share of the map that is wrong: openvino 36 %, iree 36 %; of 7 x 7: 0 %, 0 %"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 iree-base-compiler==3.13.0 \
    iree-base-runtime==3.13.0 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
PATH=$folder/venv/bin:$PATH "$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys

import iree.runtime
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def pooled(size: int, counts: int, ceil: int) -> dict[str, np.ndarray]:
    """Return what each runtime makes of a 3x3 average, stride 2, padding 1, of a picture of ones."""
    out = -(-(size - 1) // 2) + 1 if ceil else (size - 1) // 2 + 1
    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=counts, ceil_mode=ceil, **shape)
    sizes = (("x", [1, 1, size, size]), ("y", [1, 1, out, out]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in sizes]
    graph = helper.make_graph([node], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "pool.onnx")
    x = np.ones((1, 1, size, size), np.float32)
    session = onnxruntime.InferenceSession("pool.onnx", providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model("pool.onnx"), "CPU")
    subprocess.run(["iree-import-onnx", "pool.onnx", "-o", "pool.mlir"], check=True)
    options = ["--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=generic"]
    subprocess.run(["iree-compile", "pool.mlir", *options, "-o", "pool.vmfb"], check=True, stderr=subprocess.DEVNULL)
    module = iree.runtime.load_vm_flatbuffer_file("pool.vmfb", driver="local-sync")
    return {
        "onnxruntime": session.run(None, {"x": x})[0][0, 0],
        "reference": ReferenceEvaluator(model).run(None, {"x": x})[0][0, 0],
        "openvino": compiled({"x": x})[0][0, 0],
        "iree": module.pool(x).to_host().copy()[0, 0],
    }


def wrong(answers: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the percentage of the map in which a runtime is not the reference."""
    truth = answers["reference"]
    return {name: round(100 * np.mean(np.abs(got - truth) > 1e-5)) for name, got in answers.items()}


even, odd = pooled(8, 1, 1), pooled(7, 1, 1)
shares, at_odd = wrong(even), wrong(odd)
corners = {name: round(float(values[-1, -1]), 2) for name, values in even.items()}
others = [share for pair in ((0, 1), (1, 0), (0, 0)) for share in wrong(pooled(8, *pair)).values()]
print(
    f"ones, 8 x 8: corner {', '.join(f'{name} {value}' for name, value in corners.items())}; share of the map that is "
    f"wrong: openvino {shares['openvino']} %, iree {shares['iree']} %; of 7 x 7: {at_odd['openvino']} %, {at_odd['iree']} %"
)
assert corners == {"onnxruntime": 0.25, "reference": 0.25, "openvino": 0.11, "iree": 0.11}, "the behaviour changed"
assert shares["onnxruntime"] == 0 and shares["openvino"] == shares["iree"] == 36, "the behaviour changed"
assert not any(at_odd.values()) and not any(others), "the behaviour changed"
sys.stdout.flush()
os._exit(0)  # iree's runtime is not taken apart: that crashes now and then as the process ends
PYTHON
