#!/usr/bin/env bash
# Versions: onnx2tf 1.29.24 (on tensorflow 2.19.0, tf_keras 2.19.0, onnx 1.19.1, NumPy 1.26.4), ai-edge-litert 2.1.0,
#        onnxruntime 1.23.0 (CPU) beside it; Python 3.11, Linux x86-64.
# Guess: onnx2tf brings a pool to TFLite with the same answers, or refuses, as it does a Conv of SAME_LOWER ("Invalid auto_pad
#        attribute"); its rewriting of NCHW to NHWC is what it is made for.
# Seen:  pools of auto_pad SAME_LOWER get their padding in rows alone, before and behind, and none in columns: a square map is
#        no longer one, and a global pool behind it hides that. An AveragePool with dilations (opset 19) is computed without
#        them. SAME_UPPER and pads given as numbers are right. Every conversion ends with success.
# Output seen: "9 x 9 (ONNX Runtime, TFLite): MaxPool 2x2 SAME_UPPER [9, 9] [9, 9], SAME_LOWER [9, 9] [10, 8], 3x3 stride 2 pads 1 0 0 1 [4, 4] [4, 4], dilated AveragePool [7, 7] [8, 8]"
#
# 700 MB of downloads. With PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check onnx2tf==1.29.24 tensorflow==2.19.0 tf_keras==2.19.0 \
        onnx==1.19.1 numpy==1.26.4 ai-edge-litert==2.1.0 onnxruntime==1.23.0 onnxsim==0.4.36 onnx_graphsurgeon==0.5.8 \
        sng4onnx==2.0.1 psutil==5.9.5 h5py==3.11.0 ml_dtypes==0.5.1 protobuf==4.25.5
fi
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= "$python" - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import contextlib
import io
import pathlib

import numpy as np
import onnx
import onnx2tf
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper

PICTURE = np.random.default_rng(0).normal(size=(1, 4, 9, 9)).astype(np.float32)


def answers(name, operator, **attributes):
    """What ONNX Runtime and TFLite give, both as NCHW."""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, PICTURE.shape)]
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, f"{name}.onnx")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    right = session.run(None, {"x": PICTURE})[0]
    with contextlib.redirect_stdout(io.StringIO()):
        onnx2tf.convert(f"{name}.onnx", output_folder_path=name, non_verbose=True)
    interpreter = Interpreter(model_path=str(next(pathlib.Path(name).glob("*float32.tflite"))))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], PICTURE.transpose(0, 2, 3, 1))
    interpreter.invoke()
    given = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return right, given.transpose(0, 3, 1, 2)


small, usual = {"kernel_shape": [2, 2], "strides": [1, 1]}, {"kernel_shape": [3, 3], "strides": [2, 2]}
pools = {
    "MaxPool 2x2 SAME_UPPER": answers("upper", "MaxPool", auto_pad="SAME_UPPER", **small),
    "SAME_LOWER": answers("lower", "MaxPool", auto_pad="SAME_LOWER", **small),
    "3x3 stride 2 pads 1 0 0 1": answers("pads", "MaxPool", pads=[1, 0, 0, 1], **usual),
    "dilated AveragePool": answers("dilated", "AveragePool", dilations=[2, 2], **small),
}
sizes = {name: [list(each.shape[2:]) for each in both] for name, both in pools.items()}
told = ", ".join(f"{name} {right} {given}" for name, (right, given) in sizes.items())
print(f"9 x 9 (ONNX Runtime, TFLite): {told}")
expected = [[[9, 9], [9, 9]], [[9, 9], [10, 8]], [[4, 4], [4, 4]], [[7, 7], [8, 8]]]
assert list(sizes.values()) == expected, "the behaviour changed"
assert all(np.allclose(*pools[name]) for name in ("MaxPool 2x2 SAME_UPPER", "3x3 stride 2 pads 1 0 0 1"))
PYTHON
