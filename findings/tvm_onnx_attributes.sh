#!/usr/bin/env bash
# Versions: apache-tvm 0.27.0.post1 (tvm.relax.frontend.onnx, target llvm), onnxruntime 1.32.0 (CPU), onnx 1.23.2, NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: TVM's importer computes an operator as the file says, or refuses it, as it does half_pixel_symmetric
#        ("Unsupported coordinate_transformation_mode"), LpNormalization and QLinearConv: one that it lists is read whole.
# Seen:  attributes that it does not know are left unread. ConvTranspose forgets output_shape (a row and a column too many),
#        MaxPool of SAME_LOWER leaves off the last column where the width is odd, Resize computes antialias=1 as if it were
#        0, IsInf calls -Inf infinite with detect_negative=0. And a Resize by 1.7 places its pixels by the quotient of the
#        sizes. ConvTranspose with pads, MaxPool of SAME_UPPER, AveragePool of SAME_LOWER and a Resize by 2 are right.
# Output seen: "wrong: ConvTranspose output_shape (14, 18) became (15, 19), MaxPool SAME_LOWER (4, 5) became (4, 4), Resize by 1.7 1.54, Resize antialias 0.50, IsInf detect_negative=0 1.00; right: 5"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check apache-tvm==0.27.0.post1 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

random = np.random.default_rng(0)


def answers(op: str, shape: list[int], inputs: list, x: np.ndarray | None = None, **attributes: object) -> list[np.ndarray]:
    """Return what ONNX Runtime and TVM make of one operator; inputs behind x are constants or None."""
    x = random.normal(size=shape).astype(np.float32) if x is None else x
    names = ["x", *(f"c{i}" if values is not None else "" for i, values in enumerate(inputs))]
    tensors = [numpy_helper.from_array(values, f"c{i}") for i, values in enumerate(inputs) if values is not None]
    node = helper.make_node(op, names, ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    machine = relax.VirtualMachine(tvm.compile(from_onnx(model), target="llvm"), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(x)).numpy()
    return [session.run(None, {"x": x})[0], got]


weights = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
window = {"kernel_shape": [3, 3], "strides": [2, 2]}
infinite = np.array([-np.inf, 0, np.inf], np.float32)
half = np.array([1, 1, 0.5, 0.5], np.float32)
cases = {
    "ConvTranspose pads": ("ConvTranspose", [1, 4, 7, 9], [weights], None, {"strides": [2, 2], "pads": [1] * 4}),
    "ConvTranspose output_shape": ("ConvTranspose", [1, 4, 7, 9], [weights], None, {"strides": [2, 2], "output_shape": [14, 18]}),
    "MaxPool SAME_UPPER": ("MaxPool", [1, 2, 8, 9], [], None, {**window, "auto_pad": "SAME_UPPER"}),
    "MaxPool SAME_LOWER": ("MaxPool", [1, 2, 8, 9], [], None, {**window, "auto_pad": "SAME_LOWER"}),
    "AveragePool SAME_LOWER": ("AveragePool", [1, 2, 8, 9], [], None, {**window, "auto_pad": "SAME_LOWER"}),
    "Resize by 2": ("Resize", [1, 1, 7, 9], [None, np.array([1, 1, 2, 2], np.float32)], None, {"mode": "linear"}),
    "Resize by 1.7": ("Resize", [1, 1, 7, 9], [None, np.array([1, 1, 1.7, 1.7], np.float32)], None, {"mode": "linear"}),
    "Resize antialias": ("Resize", [1, 1, 8, 12], [None, half], None, {"mode": "linear", "antialias": 1}),
    "IsInf": ("IsInf", [3], [], infinite, {}),
    "IsInf detect_negative=0": ("IsInf", [3], [], infinite, {"detect_negative": 0}),
}
wrong = {}
for name, (op, shape, inputs, x, attributes) in cases.items():
    expected, got = answers(op, shape, inputs, x, **attributes)
    if got.shape != expected.shape:
        wrong[name] = f"{expected.shape[2:]} became {got.shape[2:]}"
    elif not np.allclose(got, expected, atol=1e-3):
        wrong[name] = f"{np.abs(got.astype(float) - expected).max():.2f}"
print(f"wrong: {', '.join(f'{name} {value}' for name, value in wrong.items())}; right: {len(cases) - len(wrong)}")
known = {"ConvTranspose output_shape", "MaxPool SAME_LOWER", "Resize by 1.7", "Resize antialias", "IsInf detect_negative=0"}
assert set(wrong) == known, "the behaviour changed"
PYTHON
