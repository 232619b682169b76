#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (its ONNX parser; no GPU needed), onnxruntime 1.32.0, onnx 1.23.2.
#
# Guess: a pool with ceil_mode gives what PyTorch, ONNX Runtime and the standard (its shapes are right from opset 22 on)
# give: a last window that would begin outside the picture, in the padding behind it, is left out.
# Seen: TensorRT keeps it, at every opset: one row and one column more, of windows over padding alone, which a Gemm behind
# it refuses, and a global pool counts in. It does so where the last window lies wholly beyond the picture without padding,
# too (2x2 with stride 3). An AveragePool with padding as large as that is refused.
#
# Output seen, 2026-11-29, Linux x86-64:
#   opset 17: 2x2 stride 2 pads 1, 7 px: 4 and 5; 2x2 stride 3, 9 px: 3 and 4; 3x3 stride 2, 8 px: 4 and 4
#   opset 22: 2x2 stride 2 pads 1, 7 px: 4 and 5; 2x2 stride 3, 9 px: 3 and 4; 3x3 stride 2, 8 px: 4 and 4
#
# (ONNX Runtime and TensorRT-RTX.) Exits with 1 if that changes. Needs pip, Python 3.11 and 135 MB of downloads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-deps --target "$folder" \
    tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
python3 -m pip install --quiet --target "$folder" onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - 2>/dev/null <<'PYTHON'
import sys

import numpy as np
import onnxruntime
import tensorrt_rtx_bindings as trt
from onnx import ModelProto, TensorProto, helper

logger = trt.Logger(trt.ILogger.Severity.ERROR)
CASES = {  # kernel, stride, padding, size of the picture
    "2x2 stride 2 pads 1, 7 px": (2, 2, 1, 7),
    "2x2 stride 3, 9 px": (2, 3, 0, 9),
    "3x3 stride 2, 8 px": (3, 2, 0, 8),
}


def network(opset: int, kernel: int, stride: int, padding: int, size: int) -> ModelProto:
    shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4, "ceil_mode": 1}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, s, s]) for n, s in (("x", size), ("y", None))]
    graph = helper.make_graph([helper.make_node("MaxPool", ["x"], ["y"], **shape)], "one", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def widths(opset: int, kernel: int, stride: int, padding: int, size: int) -> tuple[int, int]:
    """What ONNX Runtime and TensorRT make of it."""
    model = network(opset, kernel, stride, padding, size).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    run = session.run(None, {"x": np.ones((1, 2, size, size), np.float32)})[0].shape[-1]
    builder = trt.Builder(logger)
    definition = builder.create_network(0)
    trt.OnnxParser(definition, logger).parse(model)
    return run, definition.get_output(0).shape[-1]


found = {opset: {name: widths(opset, *case) for name, case in CASES.items()} for opset in (17, 22)}
for opset, sizes in found.items():
    print(f"opset {opset}: " + "; ".join(f"{name}: {run} and {parsed}" for name, (run, parsed) in sizes.items()))
sys.exit(0 if all(list(sizes.values()) == [(4, 5), (3, 4), (4, 4)] for sizes in found.values()) else 1)
PYTHON
