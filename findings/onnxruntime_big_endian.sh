#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), OpenVINO 2026.4.1 (CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: an array of the other byte order (dtype ">f4": FITS and NIfTI files, .npy files of other machines, raw network
#        streams) is converted or refused; InferenceSession.run compares its type with the input's and knows NumPy's dtypes.
# Seen:  run takes ">f4" for float32 and reads the bytes as they lie: 1.0 is 4.6e-41, a picture is black with a few NaN.
#        Nothing warns. OrtValue does the same, and so does openvino.Tensor, though a call of OpenVINO's compiled model with
#        the same array converts it.
# Output seen: "1.0 as >f4: run 4.600602988224807e-41, OrtValue 4.600602988224807e-41, OpenVINO's Tensor 4.600602988224807e-41, OpenVINO's call 1.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
one = np.ones(1, ">f4")

session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
network = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU")
found = {
    "run": session.run(None, {"x": one})[0],
    "OrtValue": onnxruntime.OrtValue.ortvalue_from_numpy(one).numpy(),
    "OpenVINO's Tensor": openvino.Tensor(one).data,
    "OpenVINO's call": network(one)[0],
}
values = {name: float(array[0]) for name, array in found.items()}
print("1.0 as >f4:", ", ".join(f"{name} {value}" for name, value in values.items()))
assert [value == 1.0 for value in values.values()] == [False, False, False, True], "the behaviour changed"
PYTHON
