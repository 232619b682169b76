#!/usr/bin/env bash
# Versions: nnef-tools 1.0.11 and nnef 1.0.10 (Khronos' converters of its exchange format), onnx 1.23.2, onnxruntime 1.32.0
#        (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: what nnef_tools.convert writes of an ONNX file computes the same, or it refuses, as it does Celu and Hardmax ("Conversion
#        of operator 'Celu' is not implemented"): the format is there to carry networks between tools unchanged.
# Seen:  what NNEF has no word for is left out, and "Written" is said. Elu's alpha is gone (NNEF's elu has 1), p of an LpPool
#        too (2), SAME_LOWER pads where SAME_UPPER does (a transposed one not at all), and of a Max of three tensors, two are
#        compared. On the way back a Softmax over one axis, right in the NNEF file, is written at opset 11, where it is over
#        all axes from that one on, and an AveragePool's dilation is dropped. SAME_UPPER, pools with padding and the like hold.
# Output seen: "Elu same, LpPool same, SAME_UPPER same, AveragePool same, Softmax of the last axis same, Max of two same, Elu of 0.5 off by 0.49, LpPool of p 1 off by 2.90, SAME_LOWER off by 15.24, transposed off by 16.44, Max of three off by 2.92, Softmax over channels off by 0.90, dilated AveragePool (7, 7) is (8, 8); Celu refused; in the NNEF file: elu1 = elu(external1); max1 = max(external1, variable1);"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nnef-tools==1.0.11 nnef==1.0.10 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
x = random.normal(size=(1, 4, 9, 9)).astype(np.float32)


def run(file: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def convert(given: str, wanted: str) -> bool:
    kinds = ["--input-format", given.split(".")[-1], "--output-format", wanted.split(".")[-1]]
    command = [sys.executable, "-m", "nnef_tools.convert", *kinds, "--input-model", given, "--output-model", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() == f"Written '{wanted}'" and not done.stderr


def there_and_back(kind: str, others: tuple[np.ndarray, ...] = (), **attributes: object) -> tuple[str, str]:
    """Compare a file of one operator with what comes back, and give the operator's line of the NNEF file."""
    names = [f"w{index}" for index in range(len(others))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", 1, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(other, name) for name, other in zip(names, others, strict=True)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), "there.onnx")
    if not convert("there.onnx", "between.nnef"):
        return "refused", ""
    line = Path("between.nnef/graph.nnef").read_text(encoding="utf-8").strip().splitlines()[-2].strip()
    if not convert("between.nnef", "back.onnx"):
        return "refused", line
    want, got = run(Path("there.onnx")), run(Path("back.onnx"))
    if want.shape != got.shape:
        return f"{want.shape[2:]} is {got.shape[2:]}", line
    return ("same" if np.allclose(want, got, atol=1e-4) else f"off by {np.abs(want - got).max():.2f}"), line


kernels = random.normal(size=(4, 4, 2, 2)).astype(np.float32)
more = tuple(random.normal(size=x.shape).astype(np.float32) for _ in range(2))
window = {"kernel_shape": [2, 2]}
kept = {
    "Elu": there_and_back("Elu"),
    "LpPool": there_and_back("LpPool", **window, p=2),
    "SAME_UPPER": there_and_back("Conv", (kernels,), auto_pad="SAME_UPPER"),
    "AveragePool": there_and_back("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1),
    "Softmax of the last axis": there_and_back("Softmax", axis=3),
    "Max of two": there_and_back("Max", more[:1]),
}
lost = {
    "Elu of 0.5": there_and_back("Elu", alpha=0.5),
    "LpPool of p 1": there_and_back("LpPool", **window, p=1),
    "SAME_LOWER": there_and_back("Conv", (kernels,), auto_pad="SAME_LOWER"),
    "transposed": there_and_back("ConvTranspose", (kernels,), auto_pad="SAME_LOWER", strides=[1, 1]),
    "Max of three": there_and_back("Max", more),
}
back = {
    "Softmax over channels": there_and_back("Softmax", axis=1),
    "dilated AveragePool": there_and_back("AveragePool", **window, dilations=[2, 2]),
}
refused = there_and_back("Celu")[0]
words = ", ".join(f"{name} {found}" for name, (found, _) in [*kept.items(), *lost.items(), *back.items()])
print(f"{words}; Celu {refused}; in the NNEF file: {lost['Elu of 0.5'][1]} {lost['Max of three'][1]}")
assert all(found == "same" for found, _ in kept.values()) and refused == "refused", "the behaviour changed"
assert not any(found in ("same", "refused") for found, _ in [*lost.values(), *back.values()]), "the behaviour changed"
assert "axes = [1]" in back["Softmax over channels"][1] and "2, 2" in back["dilated AveragePool"][1], "the behaviour changed"
PYTHON
