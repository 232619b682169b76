#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: Cast to a small type gives a value of that type. To FLOAT8E5M2 it saturates unless the file says saturate=0, as the
#        standard has it by default; to INT4 it drops the fraction, so that 7.9, which lies within the range, becomes 7.
# Seen:  what is above FLOAT8E5M2's largest value becomes Inf, and above FLOAT8E4M3FN's NaN, as if the file said saturate=0,
#        while QuantizeLinear to either saturates. INT4 and UINT4 are rounded and not narrowed: 7.9 becomes 8, which INT4
#        does not have (INT8 drops the fraction). Nothing is said.
# Output seen: "of 70000: Cast to E5M2 inf, E4M3FN nan, reference 57344, 448, QuantizeLinear 57344, 448; of 7.9: Cast to INT4 8, reference 7, INT8 7; of 15.9: UINT4 16, reference 15"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def network(kind: int, quantize: bool) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.float32(1), "scale"), helper.make_tensor("zero", kind, [], [0.0])] * quantize
    if quantize:
        first = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"])
        last = helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"])
    else:
        first = helper.make_node("Cast", ["x"], ["levels"], to=kind)
        last = helper.make_node("Cast", ["levels"], ["y"], to=TensorProto.FLOAT)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([first, last], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(value: float, kind: int, quantize: bool = False) -> tuple[str, str]:
    """Return what OpenVINO and the reference make of a value."""
    x, model = np.array([value, 1], np.float32), network(kind, quantize)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
    return f"{float(compiled(x)[0][0]):g}", f"{float(reference[0]):g}"


large, other = answers(7e4, TensorProto.FLOAT8E5M2), answers(7e4, TensorProto.FLOAT8E4M3FN)
quantized = [answers(7e4, kind, quantize=True)[0] for kind in (TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E4M3FN)]
four, unsigned, eight = answers(7.9, TensorProto.INT4), answers(15.9, TensorProto.UINT4), answers(7.9, TensorProto.INT8)
print(
    f"of 70000: Cast to E5M2 {large[0]}, E4M3FN {other[0]}, reference {large[1]}, {other[1]}, QuantizeLinear {', '.join(quantized)}; "
    f"of 7.9: Cast to INT4 {four[0]}, reference {four[1]}, INT8 {eight[0]}; of 15.9: UINT4 {unsigned[0]}, reference {unsigned[1]}"
)
assert (large, other) == (("inf", "57344"), ("nan", "448")) and quantized == ["57344", "448"], "the behaviour changed"
assert (four, unsigned, eight) == (("8", "7"), ("16", "15"), ("7", "7")), "the behaviour changed"
PYTHON
