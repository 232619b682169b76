#!/usr/bin/env bash
# Versions: rknn-toolkit2 2.5.0 (Rockchip's compiler and its simulator for x86-64, target rk3588), torch 2.4.0, onnx 1.18.0,
#        onnxruntime 1.26.0 (CPU), NumPy 1.26.4; Python 3.11.
# Guess: load_onnx of a file that is quantized already (QuantizeLinear, DequantizeLinear from training or another tool), built
#        with do_quantization=False, keeps the file's scales and zero points: they are what its accuracy was measured with.
# Seen:  only where the zero point is not in the middle. INT8 with zero point 0 and UINT8 with 128, the symmetric ones, which
#        TensorRT's tools write, get a scale of 128 / 127 of the file's: -128 to 127 is read as a range and made symmetric
#        anew. A value that lies on a level of the file lies on none of the device, and answers are half a level off from
#        there on, in every layer. Nothing warns. With zero point 1 or 127 all levels are the file's.
# Output seen: "int8 0: -12 became -11.9685, scale * 1.00787; uint8 128: -12 became -11.9685, scale * 1.00787; int8 1: -12
#        became -12, scale * 1.0; uint8 127: -12 became -12, scale * 1.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rknn-toolkit2==2.5.0 torch==2.4.0 onnx==1.18.0 \
    onnxruntime==1.26.0 numpy==1.26.4 setuptools==65.5.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rknn.api import RKNN

scale = np.float32(0.125)
x = (np.arange(-96, 96).reshape(1, 3, 8, 8) * scale).astype(np.float32)


def device_and_file(zero_point: np.generic) -> tuple[np.ndarray, np.ndarray]:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in (("scale", scale), ("zero", zero_point))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    device = RKNN(verbose=False)
    device.config(target_platform="rk3588")
    steps = (lambda: device.load_onnx("model.onnx"), lambda: device.build(do_quantization=False), device.init_runtime)
    assert all(step() == 0 for step in steps)
    return device.inference(inputs=[x], data_format="nchw")[0], session.run(None, {"x": x})[0]


seen = {}
for zero_point in (np.int8(0), np.uint8(128), np.int8(1), np.uint8(127)):
    got, expected = device_and_file(zero_point)
    assert (expected == x).all(), "every value lies on a level of the file"
    levels = np.unique(got)
    seen[f"{zero_point.dtype} {zero_point}"] = (got.ravel()[0], np.ptp(levels) / (levels.size - 1) / scale)
print("; ".join(f"{name}: -12 became {value:.6g}, scale * {factor:.6}" for name, (value, factor) in seen.items()))
factors = [round(factor, 3) for _, factor in seen.values()]
assert factors == [round(128 / 127, 3)] * 2 + [1.0] * 2, "the behaviour changed"
PYTHON
