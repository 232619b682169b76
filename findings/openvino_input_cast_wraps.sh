#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: an array of another type than the network's input is refused, as by ONNX Runtime, or converted where it fits: a
#        network that takes uint8 pictures (normalization inside) does not silently take a normalized float picture.
# Seen:  any array is cast as NumPy's astype does: -1.5 becomes 255, 300 becomes 44, 0.9 becomes 0. A normalized picture
#        turns into black with white spots, and the network answers. Nothing warns. ONNX Runtime refuses.
# Output seen: "float32 [-1.5, 0.9, 2.6, 300.0] as uint8: OpenVINO [255, 0, 2, 44], ONNX Runtime InvalidArgument"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io
import sys

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, [4]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
picture = np.array([-1.5, 0.9, 2.6, 300], np.float32)
core = openvino.Core()
taken = core.compile_model(core.read_model(io.BytesIO(model)), "CPU")(picture)[0].tolist()
try:
    onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": picture})
    refused = "takes it"
except Exception as err:
    refused = type(err).__name__
print(f"float32 {[round(float(v), 1) for v in picture]} as uint8: OpenVINO {taken}, ONNX Runtime {refused}")
sys.exit(0 if taken == [255, 0, 2, 44] and refused == "InvalidArgument" else 1)
PYTHON
