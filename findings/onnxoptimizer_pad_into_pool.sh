#!/usr/bin/env bash
# Versions: onnxoptimizer 0.4.2, onnx 1.23.2 (its reference evaluator computes both sides), NumPy 2.4.6; Python 3.11.
# Guess: a Pad of zeros in front of a pool is no padding of the pool: MaxPool's is minus infinity, AveragePool's is not
#        counted. Its pass fuse_pad_into_pool takes what is the same (an AveragePool that counts padding), and leaves the rest.
# Seen:  optimize() with its default passes joins both. A MaxPool behind ZeroPad2d no longer sees the zeros: windows of
#        negative values at the border (no ReLU before, as in GoogLeNet's ports and TensorFlow's SAME) give -1 instead of 0.
#        An AveragePool that has padding of its own is made to count that, too. Without padding of its own it is right.
# Output seen: "MaxPool: border 0.0 became -1.0; AveragePool: alone 0.0, with padding of its own 0.167"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxoptimizer==0.4.2 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxoptimizer
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = -np.ones((1, 1, 6, 6), np.float32)


def before_and_after(kind: str, **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node(kind, ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **attributes),
    ]
    pads = helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 1])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    size = 4 if "pads" in attributes else 3
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, size, size]))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    optimized = onnxoptimizer.optimize(model)
    return tuple(ReferenceEvaluator(one).run(None, {"x": x})[0] for one in (model, optimized))


before, after = before_and_after("MaxPool")
alone = np.abs(np.subtract(*before_and_after("AveragePool"))).max()
padded = np.abs(np.subtract(*before_and_after("AveragePool", pads=[1, 1, 1, 1]))).max()
corner, now = before[0, 0, 0, 0], after[0, 0, 0, 0]
print(f"MaxPool: border {corner} became {now}; AveragePool: alone {alone}, with padding of its own {padded:.3f}")
assert (corner, now, alone) == (0, -1, 0) and padded > 0.1, "the behaviour changed"
PYTHON
