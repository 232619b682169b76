#!/usr/bin/env bash
# Versions: onnx 1.23.2 (its own reference evaluator), onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: onnx.version_converter brings a file down for an older runtime with the same meaning, or refuses, as it does for
#        Clip, Resize and BatchNormalization ("No Adapter From Version $13 for Clip").
# Seen:  an operator whose attribute alone changed its meaning is handed on. Softmax and LogSoftmax over the channels of a
#        map (13) become softmaxes over the whole picture (12); a dilated AveragePool (19) keeps `dilations` in 18, which
#        does not have it: no runtime opens that file. Up, from 12 to 13, the same converter adapts Softmax.
# Output seen: "Softmax 13 to 12: sums over channels 1.0 become 0.062; AveragePool 19 to 18 keeps ['dilations', 'kernel_shape']: refused; Clip 13 to 10: RuntimeError"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

picture = np.zeros((1, 3, 4, 4), np.float32)


def model(node: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 4, 4]), ("y", [1, 3, None, None]))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(made)
    return made


def answers(made: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": picture})[0]


softmax = model(helper.make_node("Softmax", ["x"], ["y"], axis=1), 13)
down = onnx.version_converter.convert_version(softmax, 12)
sums = [round(float(answers(each).sum(axis=1).max()), 3) for each in (softmax, down)]

pool = model(helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), 19)
older = onnx.version_converter.convert_version(pool, 18)
kept = sorted(entry.name for entry in older.graph.node[0].attribute)
try:
    answers(older)
    opened = "opened"
except Exception:
    opened = "refused"

clip = helper.make_node("Clip", ["x"], ["y"])
try:
    onnx.version_converter.convert_version(model(clip, 13), 10)
    clipped = "converted"
except Exception as error:
    clipped = type(error).__name__
print(
    f"Softmax 13 to 12: sums over channels {sums[0]} become {sums[1]}; AveragePool 19 to 18 keeps {kept}: {opened}; "
    f"Clip 13 to 10: {clipped}"
)
assert sums == [1.0, 0.062] and "dilations" in kept and opened == "refused" and clipped != "converted", "changed"
PYTHON
