#!/usr/bin/env bash
# Versions: tinygrad 0.14.0 (its OnnxRunner, on the PYTHON device, which needs no compiler), onnxruntime 1.32.0 (CPU), onnx
#        1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: tinygrad's runner, which picks operators by their opset, computes those of older files as they were meant, and
#        QuantizeLinear of UINT8 and INT8 by one formula: to the nearest, halves to even.
# Seen:  Softmax and LogSoftmax of opset 11 are taken over one axis, not over all from it on. Upsample (opset 9) places pixels
#        by half_pixel, where its standard knows asymmetric alone: a bilinear picture moves by half a new pixel. INT8
#        levels go to even, UINT8 ones down at 0.5 and 1.5 and up from 2.5 on. Split of 7 into 3 (opset 18) gives 3, 2, 2
#        instead of 3, 3, 1. Softmax of 13, Resize of 13 and an even Split are right. Nothing warns.
# Output seen: "wrong: Softmax 11 0.50, LogSoftmax 11 1.39, Upsample 9 0.25, UINT8 1.00, Split 7 by 3 [3, 3, 1] became [3, 2, 2]; right: 5; [0.5, 1.5, 2.5, 3.5] as INT8 [0, 2, 2, 4], as UINT8 [0, 1, 3, 4]"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tinygrad==0.14.0 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
DEV=PYTHON "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

onnxruntime.set_default_logger_severity(4)
ramp = np.tile(np.arange(6, dtype=np.float32), (1, 2, 2, 1))
halves = np.array([0.5, 1.5, 2.5, 3.5], np.float32)


def answers(op: str, opset: int, x: np.ndarray, inputs: list, parts: int = 1, **attributes: object) -> tuple[list, list]:
    """Return what ONNX Runtime and tinygrad make of one operator; inputs behind x are constants or None."""
    names = ["x", *("" if values is None else f"c{i}" for i, values in enumerate(inputs))]
    tensors = [numpy_helper.from_array(np.asarray(v), f"c{i}") for i, v in enumerate(inputs) if v is not None]
    outputs = [f"y{part}" for part in range(parts)]
    node = helper.make_node(op, names, outputs, **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    graph = helper.make_graph([node], "g", ends, [onnx.ValueInfoProto(name=name) for name in outputs], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    got = OnnxRunner("net.onnx")({"x": Tensor(x)})
    return session.run(None, {"x": x}), [got[name].numpy() for name in outputs]


one, twice = np.float32(1), np.array([1, 1, 2, 2], np.float32)
rows = np.arange(7, dtype=np.float32).reshape(7, 1)
cases = {
    "Softmax 11": answers("Softmax", 11, ramp, []),
    "LogSoftmax 11": answers("LogSoftmax", 11, ramp, []),
    "Upsample 9": answers("Upsample", 9, ramp, [twice], mode="linear"),
    "UINT8": answers("QuantizeLinear", 13, halves, [one, np.uint8(0)]),
    "Split 7 by 3": answers("Split", 18, rows, [], parts=3, num_outputs=3),
    "Softmax 13": answers("Softmax", 13, ramp, [], axis=1),
    "Resize 13 asymmetric": answers("Resize", 13, ramp, [None, twice], mode="linear", coordinate_transformation_mode="asymmetric"),
    "Resize 13": answers("Resize", 13, ramp, [None, twice], mode="linear"),
    "INT8": answers("QuantizeLinear", 13, halves, [one, np.int8(0)]),
    "Split 6 by 3": answers("Split", 18, rows[:6], [], parts=3, num_outputs=3),
}
wrong = {}
for name, (expected, got) in cases.items():
    if [each.shape for each in got] != [each.shape for each in expected]:
        wrong[name] = f"{[len(each) for each in expected]} became {[len(each) for each in got]}"
    elif not np.allclose(got[0].astype(float), expected[0].astype(float), atol=1e-4):
        wrong[name] = f"{np.abs(got[0].astype(float) - expected[0]).max():.2f}"
levels = [cases[name][1][0].tolist() for name in ("INT8", "UINT8")]
print(
    f"wrong: {', '.join(f'{name} {value}' for name, value in wrong.items())}; right: {len(cases) - len(wrong)}; "
    f"{halves.tolist()} as INT8 {levels[0]}, as UINT8 {levels[1]}"
)
assert list(wrong) == list(cases)[:5], "the behaviour changed"
PYTHON
