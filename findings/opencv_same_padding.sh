#!/usr/bin/env bash
# Versions: opencv-python-headless 5.0.0.93 (cv2.dnn, CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: cv2.dnn reads auto_pad of an ONNX file as the standard has it: SAME_UPPER puts the odd pixel of padding at the end,
#        SAME_LOWER at the beginning; it has had TensorFlow's "SAME" in its own importer for years.
# Seen:  a 3x3 window with stride 2 on an even size, with which nearly every network of TensorFlow begins (tf2onnx writes
#        SAME_UPPER), gets the odd pixel at the beginning whatever the file says: the whole map lies one pixel off, in
#        convolutions and in pools. Sizes are right and nothing warns. The same padding written as numbers is read right.
# Output seen: "Conv SAME_UPPER 252.0, Conv SAME_LOWER 0.0, MaxPool SAME_UPPER 9.0, MaxPool SAME_LOWER 0.0, AveragePool
#        SAME_UPPER 9.0, AveragePool SAME_LOWER 0.0" (of a picture of 0 to 63)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

picture = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)


MEANING = {"SAME_UPPER": [0, 0, 1, 1], "SAME_LOWER": [1, 1, 0, 0]}  # of a 3x3 window with stride 2 on 8x8


def built(kind: str, **padding: object) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")] if kind == "Conv" else []
    inputs = ["x", *(tensor.name for tensor in weights)]
    node = helper.make_node(kind, inputs, ["y"], kernel_shape=[3, 3], strides=[2, 2], **padding)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, size]) for name, size in (("x", 8), ("y", 4))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def error(kind: str, mode: str, *, explicit: bool = False) -> float:
    meant = built(kind, pads=MEANING[mode])
    (expected,) = ReferenceEvaluator(meant).run(None, {"x": picture})
    model = meant if explicit else built(kind, auto_pad=mode)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    network.setInput(picture)
    got = network.forward()
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max())


kinds = ("Conv", "MaxPool", "AveragePool")
wrong = {f"{kind} {mode}": error(kind, mode) for kind in kinds for mode in MEANING}
assert not any(error(kind, mode, explicit=True) for kind in kinds for mode in MEANING)
print(", ".join(f"{name} {value}" for name, value in wrong.items()))
expected = {f"{kind} SAME_UPPER" for kind in kinds}
assert {name for name, value in wrong.items() if value > 1} == expected, "the behaviour changed"
assert {name for name, value in wrong.items() if value == 0} == set(wrong) - expected, "the behaviour changed"
PYTHON
