#!/usr/bin/env bash
# Versions: onnxruntime 1.31.1 and 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a plain InferenceSession computes Pad (zeros) and MaxPool as the file says; it joins a Pad with a Conv or an
#        AveragePool, whose padding is zeros, and leaves it alone in front of a MaxPool, whose padding is minus infinity.
# Seen:  it joins that one, too, from the basic optimizations on. Every window at the border loses its zeros: where a map is
#        negative there (a stem without ReLU before its pool, as BiT's ZeroPad2d + MaxPool2d and TensorFlow's SAME) the
#        answers are others. Nothing warns. With disabled_optimizers=["Pad_Fusion"], or optimizations off, they are right.
#        1.32.0 leaves the Pad alone.
# Output seen, 1.31.1: "border: file 0.0, no optimization 0.0, basic -1.0, default -1.0, default without Pad_Fusion 0.0"
#        1.32.0: "border: file 0.0, no optimization 0.0, basic 0.0, default 0.0, default without Pad_Fusion 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Level = onnxruntime.GraphOptimizationLevel


def network(before: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node(before, ["x"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    shapes = {"x": [1, 4, 8, 8], "y": [1, 4, 4, 4]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(model: onnx.ModelProto, level: object, disabled: list[str] | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    return session.run(None, {"x": x})[0]


x = np.ones((1, 4, 8, 8), np.float32)
model = network("Neg")
found = {
    "file": ReferenceEvaluator(model).run(None, {"x": x})[0],
    "no optimization": answers(model, Level.ORT_DISABLE_ALL),
    "basic": answers(model, Level.ORT_ENABLE_BASIC),
    "default": answers(model, Level.ORT_ENABLE_ALL),
    "default without Pad_Fusion": answers(model, Level.ORT_ENABLE_ALL, ["Pad_Fusion"]),
}
border = {name: float(got[0, 0, 0, 0]) for name, got in found.items()}
told = ", ".join(f"{name} {value}" for name, value in border.items())
print(f"border: {told}")
joined = -1 if onnxruntime.__version__ == "1.31.1" else 0
assert list(border.values()) == [0, 0, joined, joined, 0], "the behaviour changed"
PYTHON
python3 -m venv "$folder/venv"
for version in 1.31.1 1.32.0; do
    "$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==$version onnx==1.23.2 numpy==2.4.6
    "$folder/venv/bin/python" "$folder/ask.py"
done
