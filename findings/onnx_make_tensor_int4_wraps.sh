#!/usr/bin/env bash
# Versions: onnx 1.23.2, ml_dtypes 0.6.0, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: levels that do not fit are an error in onnx.helper.make_tensor, as with INT8 ("out of bounds for int8"), or are cut
#        to the nearest, as QuantizeLinear does and as make_tensor itself does for FP8 (500 becomes 448).
# Seen:  INT4 and UINT4 wrap, without a word: 8 becomes -8. And 8 is what a symmetric quantizer writes that divides by amax / 8
#        or rounds 7.5: the largest weight of a channel changes its sign. numpy_helper.from_array of an array that was cast to
#        ml_dtypes.int4 has wrapped as well. QuantizeLinear to INT4 in a session gives 7.
# Output seen: "make_tensor of 8: INT4 -8, UINT4 of 16 0, INT8 of 128 OverflowError, FP8 of 500 448; astype(int4) of 8 -8; QuantizeLinear of 8: 7"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def stored(kind, value):
    try:
        return f"{float(numpy_helper.to_array(helper.make_tensor('levels', kind, [1], [value]))[0]):g}"
    except Exception as err:
        return type(err).__name__


four, unsigned = stored(TensorProto.INT4, 8), stored(TensorProto.UINT4, 16)
eight, float8 = stored(TensorProto.INT8, 128), stored(TensorProto.FLOAT8E4M3FN, 500.0)
cast = numpy_helper.from_array(np.array([8.0], np.float32).astype(ml_dtypes.int4), "levels")
wrapped = int(numpy_helper.to_array(cast)[0])

zero = helper.make_tensor("zero", TensorProto.INT4, [], [0])
scale = numpy_helper.from_array(np.float32(1), "scale")
graph = helper.make_graph(
    [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"]),
    ],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    [scale, zero],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
saturated = int(session.run(None, {"x": np.array([8], np.float32)})[0][0])
print(
    f"make_tensor of 8: INT4 {four}, UINT4 of 16 {unsigned}, INT8 of 128 {eight}, FP8 of 500 {float8}; "
    f"astype(int4) of 8 {wrapped}; QuantizeLinear of 8: {saturated}"
)
found = (four, unsigned, eight, float8, wrapped, saturated)
assert found == ("-8", "0", "OverflowError", "448", -8, 7), "the behaviour changed"
PYTHON
