#!/usr/bin/env bash
# Versions: onnxslim 0.1.98, onnx 1.23.2 (its reference evaluator computes both sides), NumPy 2.4.6; Python 3.11.
# Guess: a Mul behind a Conv is folded into its weights where it has one factor for each channel, [C, 1, 1] or [1, C, 1, 1];
#        a vector [W] is, by broadcasting, one factor for each column of the picture and stays a Mul.
# Seen:  it counts numbers and does not look at the shape. A vector of as many numbers as there are channels is folded as
#        if it were theirs, without a word: where the map is as wide as it has channels (8 of each, in a small network
#        with a window or mask over columns) the answers are others. One column more or less, and it is left alone.
# Output seen: "8 channels: 7 columns exact, 8 columns off by 3.9 of 5.1, Mul left: False"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxslim==0.1.98 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)


def error(columns: int) -> tuple[float, float, bool]:
    """Return the largest difference, the largest answer, and whether the Mul is still there."""
    weights = random.normal(size=(8, 3, 1, 1)).astype(np.float32)
    window = np.hanning(columns + 2)[1:-1].astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["map"]), helper.make_node("Mul", ["map", "window"], ["y"])]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(window, "window")]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 5, columns])
        for name, channels in (("x", 3), ("y", 8))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    x = random.normal(size=(1, 3, 5, columns)).astype(np.float32)
    (before,) = ReferenceEvaluator(model).run(None, {"x": x})
    slim = onnxslim.slim(model)
    (after,) = ReferenceEvaluator(slim).run(None, {"x": x})
    return float(np.abs(after - before).max()), float(np.abs(before).max()), "Mul" in {n.op_type for n in slim.graph.node}


seven, eight = error(7), error(8)
print(
    f"8 channels: 7 columns {'exact' if seven[0] < 1e-5 else seven[0]}, "
    f"8 columns off by {eight[0]:.1f} of {eight[1]:.1f}, Mul left: {eight[2]}"
)
assert seven[0] < 1e-5 and seven[2] and eight[0] > 0.5 and not eight[2], "the behaviour changed"
PYTHON
