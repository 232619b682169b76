#!/usr/bin/env bash
# Versions: onnxscript 0.7.2 (onnxscript.optimizer, onnxscript.rewriter), onnx-ir 1.1.0, onnx 1.23.2 (its reference evaluator
#        computes both sides), NumPy 2.4.6; Python 3.11.
# Guess: onnxscript.optimizer.optimize, which torch.onnx.export (2.14.1) runs by default, joins a Clip behind a Clip, or a Relu
#        behind a Clip, to one with the bounds of both, and leaves alone what no one Clip can say.
# Seen:  it takes the larger minimum and the smaller maximum, whatever their order. Where the two ranges do not overlap, the
#        second decides alone (all its lower bound, or its upper one), but the joined Clip has a minimum above its maximum,
#        which gives the maximum, the first one's: Clip(-1, -0.5), Clip(0.2, 0.6) is 0.2 everywhere and becomes -0.5, and
#        Relu(Clip(-0.5, -0.2)), 0 everywhere, becomes -0.2, a Relu with a negative answer. Ranges that overlap are right.
# Output seen: "Clip Clip apart: Clip Clip 0.2 to 0.2 became Clip -0.5 to -0.5; Clip Relu: Clip Relu 0.0 to 0.0 became Clip -0.2 to -0.2; Clip Clip overlapping: Clip Clip -0.3 to 0.4 became Clip -0.3 to 0.4"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxscript.optimizer
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.linspace(-2, 2, 9, dtype=np.float32)


def network(*steps: tuple[float, float] | None) -> onnx.ModelProto:
    """Clips of these bounds, one behind the other; None is a Relu."""
    nodes, constants, name = [], [], "x"
    for place, bounds in enumerate(steps):
        output = "y" if place == len(steps) - 1 else f"t{place}"
        names = [f"b{place}{side}" for side in range(2)] if bounds else []
        constants += [numpy_helper.from_array(np.float32(value), each) for each, value in zip(names, bounds or (), strict=True)]
        nodes.append(helper.make_node("Clip" if bounds else "Relu", [name, *names], [output]))
        name = output
    ends = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [9]) for each in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def told(model: onnx.ModelProto) -> str:
    (answer,) = ReferenceEvaluator(model).run(None, {"x": x})
    kinds = " ".join(node.op_type for node in model.graph.node if node.op_type != "Constant")
    return f"{kinds} {answer.min():.1f} to {answer.max():.1f}"


cases = {
    "Clip Clip apart": ((-1, -0.5), (0.2, 0.6)),
    "Clip Relu": ((-0.5, -0.2), None),
    "Clip Clip overlapping": ((-1, 0.4), (-0.3, 0.6)),
}
found = {}
for name, steps in cases.items():
    model = network(*steps)
    found[name] = (told(model), told(onnxscript.optimizer.optimize(model)))
print("; ".join(f"{name}: {before} became {after}" for name, (before, after) in found.items()))
assert [after for _, after in found.values()] == ["Clip -0.5 to -0.5", "Clip -0.2 to -0.2", "Clip -0.3 to 0.4"]
PYTHON
