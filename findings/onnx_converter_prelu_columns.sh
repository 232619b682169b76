#!/usr/bin/env bash
# Versions: onnx 1.23.2 (version_converter; its reference evaluator beside it), onnxruntime 1.32.0 (CPU), NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: onnx.version_converter brings a PRelu of opset 6 (one slope for each channel, [C]) to opset 7, where slopes
#        broadcast as in NumPy, by making them [C, 1, 1]; it has an adapter for what changed in Add and Gemm there.
# Seen:  the slopes stay [C] and so are one for each column of the picture. Where a map is as wide as it has channels the file
#        is valid and answers otherwise; elsewhere no runtime takes it. Nothing warns, onnx.checker accepts both. (Face
#        recognition networks of 2017 and 2018 have a PRelu behind every convolution.)
# Output seen: "slopes of 4 channels after 6 to 13: [4]; map 4 wide: differs by 0.45, map 5 wide: refused; with [4, 1, 1]: 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

SLOPES = np.array([0.1, 0.2, 0.3, 0.4], np.float32)


def converted(width):
    sizes = [2, 4, 4, width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("x", "y")]
    slopes = helper.make_tensor_value_info("slopes", TensorProto.FLOAT, [4])
    node = helper.make_node("PRelu", ["x", "slopes"], ["y"])
    graph = helper.make_graph([node], "g", [ends[0], slopes], ends[1:], [numpy_helper.from_array(SLOPES, "slopes")])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    onnx.checker.check_model(old)
    new = version_converter.convert_version(old, 13)
    new.ir_version = 8
    onnx.checker.check_model(new)
    return new


def off_by(model, width):
    picture = np.random.default_rng(0).normal(size=(2, 4, 4, width)).astype(np.float32)
    expected = np.where(picture < 0, picture * SLOPES[:, None, None], picture)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return round(float(np.abs(session.run(["y"], {"x": picture})[0] - expected).max()), 2)


square = converted(4)
(kept,) = square.graph.initializer
try:
    wide = f"{off_by(converted(5), 5)}"
except Exception:
    wide = "refused"
apart = off_by(square, 4)
mended = onnx.ModelProto.FromString(square.SerializeToString())
mended.graph.initializer[0].dims[:] = [4, 1, 1]
mended.graph.input.remove(next(each for each in mended.graph.input if each.name == kept.name))
right = off_by(mended, 4)
print(
    f"slopes of 4 channels after 6 to 13: {list(kept.dims)}; map 4 wide: differs by {apart}, map 5 wide: {wide}; "
    f"with [4, 1, 1]: {right}"
)
assert list(kept.dims) == [4] and apart > 0.1 and wide == "refused" and right == 0, "the behaviour changed"
PYTHON
