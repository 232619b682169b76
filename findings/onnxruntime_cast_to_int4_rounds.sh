#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), ml_dtypes 0.6.0, NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: Cast from float to INT4 or UINT4 drops the fraction, as Cast to INT8, NumPy, ml_dtypes and onnx's reference evaluator
#        do, so that what lies within the type's range (7.9 within -8..7.99) stays within it.
# Seen:  ONNX Runtime rounds instead, halves away from zero (2.5 becomes 3, where QuantizeLinear of the same session gives 2), and
#        then keeps the low four bits: 7.5 becomes 8 and so -8, the largest level the smallest; UINT4's 15.5 becomes 0. A Clip to
#        -8 and 7 before it keeps the sign. Nothing is said.
# Output seen: "0.5 2.5 7.4 7.5 7.9 -7.9: INT4 1 3 7 -8 -8 -8, reference 0 2 7 7 7 -7, ml_dtypes 0 2 7 7 7 -7, INT8 0 2 7 7 7 -7, QuantizeLinear 0 2 7 7 7 -8; 15.5: UINT4 0, reference 15"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.array([0.5, 2.5, 7.4, 7.5, 7.9, -7.9], np.float32)


def network(first: onnx.NodeProto, tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
    last = helper.make_node("Cast", ["levels"], ["y"], to=TensorProto.FLOAT)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([first, last], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def cast(kind: int) -> onnx.ModelProto:
    return network(helper.make_node("Cast", ["x"], ["levels"], to=kind), [])


def quantize() -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.float32(1), "scale"), helper.make_tensor("zero", TensorProto.INT4, [], [0])]
    return network(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"]), tensors)


def answer(model: onnx.ModelProto, given: np.ndarray = x) -> list[int]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [int(value) for value in session.run(None, {"x": given})[0]]


def reference(model: onnx.ModelProto, given: np.ndarray = x) -> list[int]:
    return [int(value) for value in ReferenceEvaluator(model).run(None, {"x": given})[0]]


found = {
    "INT4": answer(cast(TensorProto.INT4)),
    "reference": reference(cast(TensorProto.INT4)),
    "ml_dtypes": [int(value) for value in x.astype(ml_dtypes.int4)],
    "INT8": answer(cast(TensorProto.INT8)),
    "QuantizeLinear": answer(quantize()),
}
top = np.array([15.5], np.float32)
unsigned = answer(cast(TensorProto.UINT4), top)[0], reference(cast(TensorProto.UINT4), top)[0]
told = ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in found.items())
print(f"{' '.join(f'{value:g}' for value in x)}: {told}; 15.5: UINT4 {unsigned[0]}, reference {unsigned[1]}")
cut = [0, 2, 7, 7, 7, -7]
expected = {"INT4": [1, 3, 7, -8, -8, -8], "reference": cut, "ml_dtypes": cut, "INT8": cut, "QuantizeLinear": [0, 2, 7, 7, 7, -8]}
assert found == expected and unsigned == (0, 15), "the behaviour changed"
PYTHON
