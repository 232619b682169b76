#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0 (CPU, which computes both files), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: onnx.version_converter takes an Upsample or Resize of opset 9 and 10 to a newer opset with the same meaning: opset
#        11 brought coordinate_transformation_mode and kept "asymmetric" in it for the files that were there.
# Seen:  the new Resize gets no such attribute, so the default, half_pixel: a bilinear picture moves by half of a new pixel. With
#        nearest neighbors a scale of 2 is the same by luck; a scale of 1.2 takes other pixels. Nothing warns, the file is
#        valid. (Decoders of segmentation and feature pyramids of 2018 and 2019 are full of both.)
# Output seen: "Upsample of opset 9, values 0 to 7: linear 2.0 differs by 0.25, nearest 2.0 by 0.0, nearest 1.2 by 1.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ramp = np.tile(np.arange(8, dtype=np.float32), (1, 1, 8, 1))  # a step of 1 from column to column


def answers(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ramp})[0]


def difference(mode: str, scale: float) -> float:
    """The largest difference between the file and the same file in opset 17; one row of pixels steps by 1."""
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    node = helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 1, 8, 8]), ("y", [1, 1, None, None]))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.checker.check_model(old)
    new = onnx.version_converter.convert_version(old, 17)
    onnx.checker.check_model(new, full_check=True)
    return round(float(np.abs(answers(old) - answers(new)).max()), 3)


linear, double, fraction = difference("linear", 2.0), difference("nearest", 2.0), difference("nearest", 1.2)
print(
    f"Upsample of opset 9, values 0 to 7: linear 2.0 differs by {linear}, nearest 2.0 by {double}, "
    f"nearest 1.2 by {fraction}"
)
assert linear > 0.2 and double == 0 and fraction > 0.9, "the behaviour changed"
PYTHON
