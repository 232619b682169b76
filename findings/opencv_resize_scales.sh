#!/usr/bin/env bash
# Versions: opencv-python-headless 5.0.0.93 (cv2.dnn, CPU), onnxruntime 1.32.0, onnx 1.23.2 (its reference evaluator beside it),
#        NumPy 2.4.6; Python 3.11, x86-64.
# Guess: cv2.dnn places the pixels of an ONNX Resize by the file's scales, (x + 0.5) / scale - 0.5, as the standard does; the
#        scale is what F.interpolate(scale_factor=...) exports.
# Seen:  by the quotient of the sizes. They are the same only where scale times size is a whole number. Half of 7 pixels is 3,
#        so 7 / 3 stands for 2, and every row lies elsewhere, 0.8 pixels at the end; 1.3 of 7 is 9. Linear, cubic and nearest
#        alike, sizes are right and nothing warns. (Maps of odd sizes are common: 7 of a ResNet, 15 and 35 of a pyramid.)
# Output seen: "linear, 7 pixels, standard and OpenCV: scale 0.5 [0.5, 2.5, 4.5] and [0.67, 3.0, 5.33], scale 1.3 apart by 0.06, scale 2.0 apart by 0.0; cubic 0.5 apart by 0.93, nearest 0.6 apart by 1.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.broadcast_to(np.arange(7, dtype=np.float32), (1, 1, 7, 7)).copy()


def rows(mode: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where the columns come from, by the standard and by OpenCV."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "h", "w"]))
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, scale, scale])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(expected, ReferenceEvaluator(model).run(None, {"x": x})[0], atol=1e-4)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(x)
    return expected[0, 0, 0], net.forward()[0, 0, 0]


def apart(mode: str, scale: float) -> float:
    expected, got = rows(mode, scale)
    assert expected.shape == got.shape
    return round(float(np.abs(expected - got).max()), 2)


half = [np.round(values.astype(float), 2).tolist() for values in rows("linear", 0.5)]
found = [apart("linear", 1.3), apart("linear", 2.0), apart("cubic", 0.5), apart("nearest", 0.6)]
print(
    f"linear, 7 pixels, standard and OpenCV: scale 0.5 {half[0]} and {half[1]}, scale 1.3 apart by {found[0]}, scale 2.0 "
    f"apart by {found[1]}; cubic 0.5 apart by {found[2]}, nearest 0.6 apart by {found[3]}"
)
assert half == [[0.5, 2.5, 4.5], [0.67, 3.0, 5.33]] and found[1] == 0 and min(found[0], *found[2:]) > 0.05
PYTHON
