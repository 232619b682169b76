#!/usr/bin/env bash
# Versions: onnx 1.23.2 (its own reference evaluator computes both sides), NumPy 2.4.6; Python 3.11.
# Guess: onnx.version_converter takes a graph of opset 12 to 13 with the same meaning: Softmax, LogSoftmax and Hardmax all
#        stop flattening there, and all three are adapted.
# Seen:  Softmax and LogSoftmax are (Flatten before, Reshape behind). Hardmax is passed on as it was: over the channels of
#        a picture it picks one value in each place instead of one in the whole picture.
# Output seen: "Softmax 0.0, LogSoftmax 0.0, Hardmax 1.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

picture = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)


def flattened(kind: str) -> np.ndarray:
    """What opset 12 says: the axes from 1 on as one."""
    row = picture.reshape(1, -1).astype(np.float64)
    powers = np.exp(row - row.max())
    parts = {"Softmax": powers / powers.sum(), "LogSoftmax": np.log(powers / powers.sum())}
    return parts.get(kind, (row == row.max()).astype(np.float64)).reshape(picture.shape)


found = {}
for kind in ("Softmax", "LogSoftmax", "Hardmax"):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, picture.shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], axis=1)], "g", ends[:1], ends[1:])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.checker.check_model(old)
    new = onnx.version_converter.convert_version(old, 13)
    (got,) = ReferenceEvaluator(new).run(None, {"x": picture})
    found[kind] = float(np.abs(got - flattened(kind)).max())
print(", ".join(f"{kind} {round(error, 5)}" for kind, error in found.items()))
assert found["Softmax"] < 1e-5 and found["LogSoftmax"] < 1e-5 and found["Hardmax"] == 1.0, "the behaviour changed"
PYTHON
