#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: reductions are read alike: up to opset 17 their axes are an attribute (ReduceSum's an input from 13 on), from 18 on
#        an input; ReduceMean, ReduceMax, ReduceL2 of either form answer right, so ReduceL1 beside them does.
# Seen:  ReduceL1, ReduceLogSum and ReduceLogSumExp of opset 13 to 17 do not have their attribute read: they reduce over all
#        axes, the batch among them. With keepdims the shape, all ones, still broadcasts, so that x / ReduceL1(x), PyTorch's
#        F.normalize(x, p=1) in a file for TensorRT 8, divides by the wrong number and gives answers that depend on the
#        other pictures of the batch. Nothing warns. Opset 11, 12, 18 and 20 are right.
# Output seen: "wrong: ReduceL1 13, ReduceL1 17, ReduceLogSum 13, ReduceLogSum 17, ReduceLogSumExp 13, ReduceLogSumExp 17; x / ReduceL1(x): sums 1.0 become 0.06"
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
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 4, 3, 3)).astype(np.float32)
core = openvino.Core()


def answers(kind: str, opset: int, *, divide: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return what the standard's evaluator and OpenVINO make of a reduction over the channels."""
    as_input = opset >= (13 if kind == "ReduceSum" else 18)
    axes = {} if as_input else {"axes": [1]}
    nodes = [helper.make_node(kind, ["x", "axes"] if as_input else ["x"], ["r"], keepdims=1, **axes)]
    if divide:
        nodes.append(helper.make_node("Div", ["x", "r"], ["y"]))
    shape = x.shape if divide else [2, 1, 3, 3]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y" if divide else "r", TensorProto.FLOAT, shape))
    constants = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])] if as_input else []
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    network = core.read_model(io.BytesIO(model.SerializeToString()))
    return expected, core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]


wrong = []
for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
    for opset in (11, 12, 13, 17, 18, 20):
        expected, got = answers(f"Reduce{kind}", opset)
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-4):
            wrong.append(f"Reduce{kind} {opset}")
_, shares = answers("ReduceL1", 17, divide=True)
mean = shares.sum(axis=1).mean()
print(f"wrong: {', '.join(wrong)}; x / ReduceL1(x): sums 1.0 become {mean:.2f}")
assert wrong == [f"Reduce{kind} {opset}" for kind in ("L1", "LogSum", "LogSumExp") for opset in (13, 17)]
assert mean < 0.1
PYTHON
