#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (its ONNX parser; no GPU needed), onnxruntime 1.32.0, onnx 1.23.2.
#
# Guess: GlobalLpPool, the p-norm of each channel, is what the standard says, (sum |x|**p) ** (1/p), or is refused; LpPool
# and LpNormalization beside it take the absolute value (p = 1) or the square, and refuse other p.
# Seen: the parser makes it a power, a sum and a power, without an absolute value, for every p, and says nothing. With p = 2
# that is right. With p = 1 (the mean magnitude of a map, but for a factor) positive and negative values cancel out; with
# p = 3 the root is taken of a sum that may be negative: NaN.
#
# Output seen, 2026-11-29, Linux x86-64:
#   p = 1: ONNX Runtime 6.0; TensorRT-RTX: ElementWise POW 1.0, Reduce SUM, ElementWise POW 1.0, which is 2.0
#   p = 3: ONNX Runtime 3.302; TensorRT-RTX: ElementWise POW 3.0, Reduce SUM, ElementWise POW 0.333, which is 2.714
#   LpPool of p = 1: Unary ABS, Pooling, ElementWise PROD 4.0; LpPool of p = 3: refused
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 135 MB of downloads.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tensorrt-rtx==1.7.1.116 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
import tensorrt_rtx as trt
from onnx import ModelProto, TensorProto, helper

picture = np.array([[[[1.0, -2.0], [3.0, 0.0]]]], np.float32)
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)


def network(kind: str, p: int, **options: object) -> ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 1, 2, 2]), ("y", [1, 1, 1, 1]))]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], p=p, **options)], "one", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def layers(model: ModelProto) -> list[str]:
    """What the parser makes of the node, constants in the places of the powers."""
    definition = builder.create_network(0)
    if not trt.OnnxParser(definition, logger).parse(model.SerializeToString()):
        return ["refused"]
    made, numbers = [], []
    for place in range(definition.num_layers):
        layer = definition.get_layer(place)
        kind = layer.type.name
        if kind == "CONSTANT":
            layer.__class__ = trt.IConstantLayer
            numbers.append(round(float(np.ravel(layer.weights)[0]), 3))
        elif kind == "ELEMENTWISE":
            layer.__class__ = trt.IElementWiseLayer
            made.append(f"ElementWise {layer.op.name}" + (f" {numbers.pop(0)}" if numbers else ""))
        elif kind == "REDUCE":
            layer.__class__ = trt.IReduceLayer
            made.append(f"Reduce {layer.op.name}")
        elif kind == "UNARY":
            layer.__class__ = trt.IUnaryLayer
            made.append(f"Unary {layer.op.name}")
        else:
            made.append(kind.capitalize())
    return made


found = {}
for p in (1, 3):
    model = network("GlobalLpPool", p)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    right = round(float(session.run(None, {"x": picture})[0].item()), 3)
    found[p] = layers(model)
    signed = round(float((picture**p).sum() ** (1 / p)), 3)
    print(f"p = {p}: ONNX Runtime {right}; TensorRT-RTX: {', '.join(found[p])}, which is {signed}")
window = {p: layers(network("LpPool", p, kernel_shape=[2, 2])) for p in (1, 3)}
print(f"LpPool of p = 1: {', '.join(window[1])}; LpPool of p = 3: {', '.join(window[3])}")
kept = all(not any("ABS" in layer for layer in made) and len(made) == 3 for made in found.values())
sys.exit(0 if kept and "Unary ABS" in window[1] and window[3] == ["refused"] else 1)
PYTHON
