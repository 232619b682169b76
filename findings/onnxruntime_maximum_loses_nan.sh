#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2, NumPy 2.4.6 (whose maxima hand NaN on); Python 3.11, x86-64.
# Guess: ONNX Runtime hands NaN on, as PyTorch does, so that a broken frame is seen in the logits: Relu, Clip, Max do (where
#        OpenVINO's make a number of it), and so do the maxima over windows and axes.
# Seen:  these do not. GlobalMaxPool and ReduceMax leave NaN out, MaxPool keeps it only as the last value of a window, and
#        ArgMax and TopK of scores with NaN answer with another class. A network that ends in a global maximum (CBAM's
#        channel attention, GeM's neighbors) answers a frame with a row of NaN as if nothing were wrong; mean pools show it.
# Output seen: "NaN in 8 channels, left in: Relu 8, Clip 8, Max 8, AveragePool 8, MaxPool (last of a window) 8, MaxPool (first) 0, GlobalMaxPool 0, ReduceMax 0; ArgMax of 1 NaN 3 2: 2, NumPy's 1"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def answer(picture, operator, constants=None, gives=TensorProto.FLOAT, **attributes):
    constants = constants or {}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *constants], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, picture.shape)],
        [helper.make_tensor_value_info("y", gives, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": picture})[0]


def picture_with_nan(row, column):
    picture = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    picture[:, :, row, column] = np.nan
    return picture


first, last = picture_with_nan(8, 8), picture_with_nan(9, 9)
window = {"kernel_shape": [2, 2], "strides": [2, 2]}
cases = {
    "Relu": (last, "Relu"),
    "Clip": (last, "Clip", {"low": np.float32(0), "high": np.float32(6)}),
    "Max": (last, "Max", {"other": np.zeros(1, np.float32)}),
    "AveragePool": (last, "AveragePool", None, TensorProto.FLOAT, window),
    "MaxPool (last of a window)": (last, "MaxPool", None, TensorProto.FLOAT, window),
    "MaxPool (first)": (first, "MaxPool", None, TensorProto.FLOAT, window),
    "GlobalMaxPool": (last, "GlobalMaxPool"),
    "ReduceMax": (last, "ReduceMax", {"axes": np.array([2, 3])}),
}
kept = {
    name: int(np.isnan(answer(*case[:4], **(case[4] if len(case) > 4 else {}))).sum()) for name, case in cases.items()
}
scores = np.array([[1, np.nan, 3, 2]], np.float32)
best = int(answer(scores, "ArgMax", None, TensorProto.INT64, axis=1)[0, 0])
told = ", ".join(f"{name} {count}" for name, count in kept.items())
print(f"NaN in 8 channels, left in: {told}; ArgMax of 1 NaN 3 2: {best}, NumPy's {scores.argmax()}")
assert list(kept.values()) == [8, 8, 8, 8, 8, 0, 0, 0] and best == 2, "the behaviour changed"
PYTHON
