#!/usr/bin/env bash
# Versions: IREE 3.13.0 (iree-import-onnx, iree-compile for llvm-cpu, its runtime), onnxruntime 1.32.0 (CPU and
#        quantize_static), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a network that quantize_static writes in its QOperator format (QLinearConv) is computed, or refused; per tensor and
#        per channel are one formula, in which the INT32 bias counts in steps of x_scale * w_scale.
# Seen:  per tensor it is. Per channel the bias is added as if its step were 1, without its scale: a bias of 100 at steps
#        of 0.002 moves the answer by 100 instead of 0.2. Without a bias, in Q/DQ format, or per tensor the same network is right.
#        Of a small network of two convolutions every answer is off, by up to 210 levels of 255. Nothing warns.
# Output seen: "bias of 100 steps of 0.002: per tensor +0.2, per channel +100.0; two convolutions, levels off at most: per tensor 1, per channel 210 (100 % of values wrong), per channel as Q/DQ 0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check iree-base-compiler==3.13.0 iree-base-runtime==3.13.0 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
PATH=$folder/venv/bin:$PATH "$folder/venv/bin/python" - <<'PYTHON'
import logging
import os
import subprocess
import sys

import iree.runtime
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable(logging.WARNING)  # quantize_static's advice
random = np.random.default_rng(0)


def saved(nodes: list[onnx.NodeProto], x_shape: list, y_shape: list, constants: dict[str, np.ndarray]) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x_shape), ("y", y_shape))]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")


def iree_of(path: str, x: np.ndarray) -> np.ndarray:
    subprocess.run(["iree-import-onnx", path, "-o", "net.mlir"], check=True)
    options = ["--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=generic"]
    subprocess.run(["iree-compile", "net.mlir", *options, "-o", "net.vmfb"], check=True, stderr=subprocess.DEVNULL)
    module = iree.runtime.load_vm_flatbuffer_file("net.vmfb", driver="local-sync")
    return module.net(x).to_host().copy()


def onnxruntime_of(path: str, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def moved(per_channel: bool) -> float:
    """Return by how much a bias of 100 moves one 1x1 convolution of zeros, whose output has steps of 0.1 or 1."""
    step = 1.0 if per_channel else 0.1
    weight_scale = np.full(2, 0.02, np.float32) if per_channel else np.float32(0.02)
    constants = {"x_scale": np.float32(0.1), "zero": np.int8(0), "w": np.ones((2, 1, 1, 1), np.int8), "w_scale": weight_scale}
    constants |= {"w_zero": np.zeros_like(weight_scale, np.int8), "y_scale": np.float32(step), "bias": np.full(2, 100, np.int32)}
    inputs = ["q", "x_scale", "zero", "w", "w_scale", "w_zero", "y_scale", "zero", "bias"]
    nodes = [helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["q"])]
    nodes.append(helper.make_node("QLinearConv", inputs, ["r"], kernel_shape=[1, 1]))
    nodes.append(helper.make_node("DequantizeLinear", ["r", "y_scale", "zero"], ["y"]))
    saved(nodes, [1, 1, 2, 2], [1, 2, 2, 2], constants)
    return round(float(iree_of("net.onnx", np.zeros((1, 1, 2, 2), np.float32)).max()), 3)


class Pictures(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches = iter([{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def levels_off(form: QuantFormat, per_channel: bool) -> tuple[int, int]:
    """Return the largest distance from ONNX Runtime in levels, and the percentage of values more than a level off."""
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (4, 8, 3, 3), "c": (4,)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["a"]), helper.make_node("Relu", ["a"], ["r"])]
    saved([*nodes, helper.make_node("Conv", ["r", "v", "c"], ["y"])], [1, 3, 8, 8], [1, 4, 4, 4], constants)
    quantize_static("net.onnx", "int8.onnx", Pictures(), quant_format=form, per_channel=per_channel)
    model = onnx.load("int8.onnx")
    scale = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "y_scale")
    x = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
    off = np.abs(iree_of("int8.onnx", x) - onnxruntime_of("int8.onnx", x)) / scale
    return round(float(off.max())), round(100 * float(np.mean(off > 1.5)))


tensor, channel = moved(False), moved(True)
right, wrong, as_pairs = (
    levels_off(QuantFormat.QOperator, False),
    levels_off(QuantFormat.QOperator, True),
    levels_off(QuantFormat.QDQ, True),
)
print(
    f"bias of 100 steps of 0.002: per tensor +{tensor}, per channel +{channel}; two convolutions, levels off at most: "
    f"per tensor {right[0]}, per channel {wrong[0]} ({wrong[1]} % of values wrong), per channel as Q/DQ {as_pairs[0]}"
)
assert tensor == 0.2 and channel == 100, "the behaviour changed"
assert right[0] <= 2 and as_pairs[0] <= 2 and wrong[0] > 50 and wrong[1] > 50, "the behaviour changed"
sys.stdout.flush()
os._exit(0)  # iree's runtime is not taken apart: that crashes now and then as the process ends
PYTHON
