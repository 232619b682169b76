#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.transformers.float16), onnx 1.23.2, NumPy 2.4.6; Python 3.11.
# Guess: ONNX Runtime's converter to FP16 leaves Q/DQ alone or refuses where the standard has no FP16 form of them (it
#        begins with opset 19; the converter has a list of operators that are left in float32).
# Seen:  QuantizeLinear and DequantizeLinear are on no list. At opset 13 and 17 every scale becomes FP16, and neither
#        onnx's checker nor ONNX Runtime itself takes the file: "tensor(float16) of input parameter (x) of operator
#        (QuantizeLinear) is invalid". At 19 it is valid, but a channel's scale below 6e-8 is raised to 5.96e-8 by the
#        bound that is meant for weights: with 1e-8 the whole channel is six times as large. Nothing warns.
# Output seen: "opset 13 invalid, opset 17 invalid, opset 19 runs; scale 1e-08 became 5.96e-08, answers 1.27e-06 became 7.57e-06"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16


def network(opset: int, scale: float):
    """One weight of 127 steps behind a quantized input of 1.0."""
    values = {"xs": np.float32(0.01), "xz": np.int8(0), "w": np.full((1, 1), 127, np.int8), "ws": np.float32(scale)}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    nodes = [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"])]
    nodes += [helper.make_node("DequantizeLinear", ["w", "ws", "xz"], ["v"]), helper.make_node("MatMul", ["d", "v"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def answer(model, dtype) -> float:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.ones((1, 1), dtype)})[0].item())


found = {}
for opset in (13, 17, 19):
    answer(network(opset, 0.01), np.float32)  # it is valid before
    try:
        answer(convert_float_to_float16(network(opset, 0.01)), np.float16)
        found[opset] = "runs"
    except Exception as err:
        assert "QuantizeLinear" in str(err), err
        found[opset] = "invalid"
tiny = network(19, 1e-8)
half = convert_float_to_float16(copy.deepcopy(tiny))
(scale,) = (numpy_helper.to_array(item).item() for item in half.graph.initializer if item.name == "ws")
before, after = answer(tiny, np.float32), answer(half, np.float16)
print(", ".join(f"opset {opset} {what}" for opset, what in found.items()), end="; ")
print(f"scale 1e-08 became {scale:.3g}, answers {before:.3g} became {after:.3g}")
assert found == {13: "invalid", 17: "invalid", 19: "runs"} and 5.9e-8 < scale < 6e-8 and 5.5 < after / before < 6.5
PYTHON
