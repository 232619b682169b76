#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: openvino.save_model compresses weights to FP16 unless told otherwise (documented: half the size, "accuracy of most
#        models is kept"); a tensor with values that FP16 does not hold stays FP32.
# Seen:  it becomes FP16 like all others. What is larger than 65504 is cut to 65504, and weights below 6e-8 become 0, so that
#        a channel of small weights (BatchNorm folded over a channel that hardly varies in what it reads) gives its bias
#        alone. Nothing warns. The .onnx file itself, and save_model(compress_to_fp16=False), answer right.
# Output seen: "saved as float16: weight 100000.0 became 65504.0, answers off by 0.34; channel of 1e-08 became 0.0, off by 1.0; normal channel off by 0.0002; without compression off by 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
weight = rng.normal(size=(3, 4, 3, 3)).astype(np.float32)
weight[0, 0, 1, 1] = 1e5
weight[1] = np.sign(weight[1]) * 1e-8
nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])]
shapes = {"x": [1, 4, 8, 8], "y": [1, 3, 6, 6]}
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)

core = openvino.Core()
x = rng.normal(size=shapes["x"]).astype(np.float32)
network = core.read_model(io.BytesIO(model.SerializeToString()))


def answers(what: object) -> np.ndarray:
    return core.compile_model(what, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0][0]


expected, off, kept = answers(network), {}, {}
for name, options in {"default": {}, "plain": {"compress_to_fp16": False}}.items():
    path = Path(sys.argv[1]) / f"{name}.xml"
    openvino.save_model(network, path, **options)
    got = answers(str(path))
    off[name] = [round(float(np.abs(a - b).max() / np.abs(a).max()), 4) for a, b in zip(expected, got, strict=True)]
    constants = [node for node in core.read_model(path).get_ops() if node.get_type_name() == "Constant"]
    kept[name] = max(constants, key=lambda node: node.get_data().size).get_data()
stored = kept["default"]
large, small = float(stored.max()), float(np.abs(stored[1]).max())
print(
    f"saved as {stored.dtype}: weight {weight.max()} became {large}, answers off by {off['default'][0]:.2f}; channel of "
    f"1e-08 became {small}, off by {off['default'][1]}; normal channel off by {off['default'][2]}; without compression off "
    f"by {max(off['plain'])}"
)
assert stored.dtype == np.float16 and large == 65504 and small == 0 and max(off["plain"]) == 0, "the behaviour changed"
PYTHON
