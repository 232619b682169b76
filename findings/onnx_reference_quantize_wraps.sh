#!/usr/bin/env bash
# Versions: onnx 1.23.2 (its reference evaluator), onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: QuantizeLinear saturates, as its page says ("saturate((x / y_scale) + y_zero_point)"), in the evaluator of the
#        standard itself as well: whatever is too large becomes 127.
# Seen:  the evaluator rounds into int32 before it saturates. Up to 2**31 steps the answer is 127; a larger value, or
#        Inf, wraps and becomes -128, the lowest instead of the highest. Scales that small are normal: a channel whose
#        activations were nearly zero in calibration, then meets a real value.
# Output seen: "x 21.0: 127 and 127; x 22.0: -128 and 127; x inf: -128 and 127" (evaluator and ONNX Runtime, scale 1e-8)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

constants = [numpy_helper.from_array(np.float32(1e-8), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]), helper.make_tensor_value_info("y", TensorProto.INT8, [3])]
node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
graph = helper.make_graph([node], "one", ends[:1], ends[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
x = np.array([21.0, 22.0, np.inf], np.float32)
(standard,) = ReferenceEvaluator(model).run(None, {"x": x})
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(runtime,) = session.run(None, {"x": x})
print("; ".join(f"x {value}: {one} and {two}" for value, one, two in zip(x, standard, runtime)))
assert standard.tolist() == [127, -128, -128] and runtime.tolist() == [127, 127, 127]
PYTHON
