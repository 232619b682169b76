#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnxruntime 1.32.0 (CPU, without optimizations) and onnx 1.23.2 (its reference evaluator) to
#        compare with, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: whether two Q/DQ pairs name the same tensor as their zero point, or two tensors with the same number, is the writer's
#        affair: constants are shared wherever weights are tied or a tool takes away what is there twice.
# Seen:  around a ReduceSum it decides. OpenVINO multiplies the zero point by the number of values that are summed, which is
#        right in front of the sum, but does it to the constant: every other pair that names it has the new zero point, too.
#        The sum of 16 values with zero point -5 then comes out 75 steps higher, all of it. With a zero point of its own for
#        each pair, shared scales, a zero point of 0, or ReduceMean and ReduceMax, it is right. Nothing is said.
# Output seen: "steps too high: shared 75, shared zero point only 75, shared scale only 0, none shared 0, shared 0 0, ReduceMean, shared 0, ReduceMax, shared 0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4)).astype(np.float32)
settings = onnxruntime.SessionOptions()
settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
STEP = np.float32(0.05)


def steps_off(kind: str, scale: str, zero_point: str, value: int) -> float:
    """Return by how many steps OpenVINO's answer lies higher; the second pair names these two tensors."""

    def pair(read: str, written: str, scale: str, zero_point: str) -> list[onnx.NodeProto]:
        quantize = helper.make_node("QuantizeLinear", [read, scale, zero_point], [f"{read}_q"])
        return [quantize, helper.make_node("DequantizeLinear", [f"{read}_q", scale, zero_point], [written])]

    reduction = helper.make_node(kind, ["d", "axes"], ["r"])
    nodes = [*pair("x", "d", "s", "z"), reduction, *pair("r", "y", scale, zero_point)]
    constants = {"axes": np.array([2, 3]), "s": STEP, "s2": STEP, "z": np.int8(value), "z2": np.int8(value)}
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items() if name in used]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    assert np.allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], expected, atol=1e-4)
    core = openvino.Core()
    network = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    difference = (network(x)[0] - expected) / STEP
    return round(float(difference.flat[np.abs(difference).argmax()]), 1) + 0.0


cases = {
    "shared": ("ReduceSum", "s", "z", -5),
    "shared zero point only": ("ReduceSum", "s2", "z", -5),
    "shared scale only": ("ReduceSum", "s", "z2", -5),
    "none shared": ("ReduceSum", "s2", "z2", -5),
    "shared 0": ("ReduceSum", "s", "z", 0),
    "ReduceMean, shared": ("ReduceMean", "s", "z", -5),
    "ReduceMax, shared": ("ReduceMax", "s", "z", -5),
}
found = {name: steps_off(*case) for name, case in cases.items()}
print(f"steps too high: {', '.join(f'{name} {steps:g}' for name, steps in found.items())}")
assert [abs(steps) > 70 for steps in found.values()] == [True, True, *[False] * 5], "the behaviour changed"
assert all(abs(steps) <= 1 for steps in list(found.values())[2:]), "the behaviour changed"
PYTHON
