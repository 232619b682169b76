#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: Softmax of opset 12 and older is read as the standard has it, over all axes from `axis` on as one (the default 1),
#        as LogSoftmax and Hardmax beside it are.
# Seen:  over that one axis alone. Of a map [1, C, H, W], the default axis 1 and opset 11, every place gets a softmax over its
#        channels instead of one softmax over the picture, a number H * W times as large. Nothing warns; LogSoftmax and
#        Hardmax of the same opset are right. (A spatial attention or heat map in a file of 2019 or 2020 is what does this.)
# Output seen: "sum over the picture, exact 1: Softmax 9.0, LogSoftmax 1.0, Hardmax 1.0; Softmax of opset 13 over one axis: 9.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper

x = np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)
core = openvino.Core()


def whole(kind: str, opset: int) -> float:
    """Return the sum of all that OpenVINO answers; of LogSoftmax, of its exponentials."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], axis=1)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    network = core.read_model(io.BytesIO(model.SerializeToString()))
    answer = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0].astype(np.float64)
    return round(float((np.exp(answer) if kind == "LogSoftmax" else answer).sum()), 3)


found = {kind: whole(kind, 11) for kind in ("Softmax", "LogSoftmax", "Hardmax")}
new = whole("Softmax", 13)
told = ", ".join(f"{kind} {value}" for kind, value in found.items())
print(f"sum over the picture, exact 1: {told}; Softmax of opset 13 over one axis: {new}")
assert found == {"Softmax": 9.0, "LogSoftmax": 1.0, "Hardmax": 1.0} and new == 9.0, "the behaviour changed"
PYTHON
