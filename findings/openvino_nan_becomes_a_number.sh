#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: NaN in a picture comes out as NaN, so that a broken camera frame is seen: Relu is max(0, x), Clip a minimum of a
#        maximum, and every runtime hands NaN on.
# Seen:  it depends on the operator. LeakyRelu, Sigmoid, Tanh, Abs hand NaN on. Relu gives 0, Clip its lower bound,
#        HardSigmoid 1, ReduceMax leaves NaN out, and Exp gives Inf. A ResNet answers a frame of NaN with confidence.
# Output seen: "Relu 0.0, Clip 0.0, HardSigmoid 1.0, ReduceMax 2.0, Exp inf, LeakyRelu nan, Sigmoid nan, Abs nan"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

frame = np.array([[np.nan, 2.0]], np.float32)
bounds = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("low", 0.0), ("high", 6.0))]
core, found = openvino.Core(), {}
for kind in ("Relu", "Clip", "HardSigmoid", "ReduceMax", "Exp", "LeakyRelu", "Sigmoid", "Abs"):
    more = ["low", "high"] if kind == "Clip" else []
    attributes = {"axes": [1]} if kind == "ReduceMax" else {}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    ends[0].type.tensor_type.shape.dim.add().dim_value = 1
    ends[0].type.tensor_type.shape.dim.add().dim_value = 2
    node = helper.make_node(kind, ["x", *more], ["y"], **attributes)
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], bounds if more else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": frame})
    assert np.isnan(expected.ravel()[0]), (kind, expected)  # what the standard's own evaluator says
    network = core.read_model(io.BytesIO(model.SerializeToString()))
    answers = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(frame)[0]
    found[kind] = float(answers.ravel()[0])
print(", ".join(f"{kind} {value}" for kind, value in found.items()))
expected = {"Relu": 0.0, "Clip": 0.0, "HardSigmoid": 1.0, "ReduceMax": 2.0, "Exp": np.inf}
assert {kind: found[kind] for kind in expected} == expected
assert all(np.isnan(found[kind]) for kind in ("LeakyRelu", "Sigmoid", "Abs"))
PYTHON
