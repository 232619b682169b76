#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (parser and builder; no GPU needed), onnxruntime 1.32.0, onnx 1.23.2.
#
# Guess: QuantizeLinear, Pad (int8, by an int8 constant), DequantizeLinear, Conv is taken, with one more layer for the Pad:
# padding with an integer is how a quantized network pads by its zero point, and ONNX Runtime's own quantizer writes it.
# Seen: the parser takes it, the builder does not ("Quantized constant ... is only allowed before DQ"). The Pad behind the
# DequantizeLinear, one pair for both, is built without a word, and the convolution behind it computes in float, padded
# tensor and all. Only with a second pair (Q, DQ, Pad in float, Q, DQ, Conv) is it INT8 again, and the Pad costs no layer
# of its own. ONNX Runtime and onnx's evaluator run all three files and agree.
#
# Output seen, 2026-11-30, Linux x86-64:
#   Q Pad DQ Conv: not built: Quantized constant (value) is only allowed before DQ
#   Q DQ Pad Conv: built, 8 layers, input of the convolution: Float
#   Q DQ Pad Q DQ Conv: built, 7 layers, input of the convolution: Int8
#   Q DQ Conv, without a Pad: built, 7 layers, input of the convolution: Int8
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 135 MB of downloads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check \
        tensorrt-rtx==1.7.1.116 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
fi
"$python" - <<'PYTHON'
import re
import sys

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

C = 64


def network(form: list[str]) -> onnx.ModelProto:
    """Conv, then `form`, a 3x3 Conv, a Relu, and a quantized 1x1 Conv."""
    rng, nodes, initializers = np.random.default_rng(0), [], []

    def constant(name: str, value: object) -> str:
        if all(tensor.name != name for tensor in initializers):
            initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, output: str, *inputs: str, **options: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], output, **options))
        return output

    def pair(x: str) -> str:
        scale, zero = constant("scale", np.float32(0.05)), constant("zero", np.int8(0))
        return node("DequantizeLinear", f"{x}.dq", node("QuantizeLinear", f"{x}.q", x, scale, zero), scale, zero)

    def convolution(name: str, x: str, shape: tuple[int, ...], **options: object) -> str:
        weight = constant(f"{name}.int8", rng.integers(-127, 127, shape).astype(np.int8))
        scale = constant(f"{name}.scale", np.full(shape[0], 0.01, np.float32))
        zero = constant(f"{name}.zero", np.zeros(shape[0], np.int8))
        bias = constant(f"{name}.bias", rng.normal(size=shape[0]).astype(np.float32))
        real = node("DequantizeLinear", f"{name}.w", weight, scale, zero, axis=0)
        return node("Conv", name, x, real, bias, kernel_shape=list(shape[2:]), **options)

    x = convolution("first", pair("x"), (C, 3, 3, 3), pads=[1] * 4)
    padded = "Pad" in form
    for step in form:
        if step == "Q":
            x = node("QuantizeLinear", f"{x}.q", x, constant("scale", np.float32(0.05)), constant("zero", np.int8(0)))
        elif step == "DQ":
            x = node("DequantizeLinear", f"{x}.dq", x, constant("scale", np.float32(0.05)), constant("zero", np.int8(0)))
        elif step == "Pad":
            value = np.int8(-128) if x.endswith(".q") else np.float32(-6.4)
            x = node("Pad", "pad", x, constant("pads", np.array([0, 0, 0, 0, 0, 0, 1, 1])), constant("value", value))
    x = convolution("second", x, (C, C, 3, 3), pads=[0] * 4 if padded else [0, 0, 1, 1])
    convolution("last", pair(node("Relu", "relu", x)), (C, C, 1, 1))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 28, 28])]
    ends.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, C, "h", "w"]))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


class Log(trt.ILogger):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[object, str]] = []

    def log(self, severity: object, message: str) -> None:
        self.lines.append((severity, message))


def built(model: onnx.ModelProto) -> str:
    log = Log()
    builder = trt.Builder(log)
    net = builder.create_network(0)
    assert trt.OnnxParser(net, log).parse(model.SerializeToString()), "the parser refuses it"
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    plan = builder.build_serialized_network(net, config)
    if plan is None:
        told = " ".join(message for severity, message in log.lines if severity <= trt.ILogger.ERROR)
        return "not built: " + re.search(r"Quantized constant \(\w+\) is only allowed before DQ", told)[0]
    (layers,) = (message for _, message in log.lines if message.startswith("Layers:"))
    names = [line for line in layers.splitlines() if line.startswith("Name:") and "LayerType" in line]
    (second,) = (line for line in names if line.startswith("Name: second"))
    datatype = re.search(r"Datatype: (\w+)", second)[1]
    return f"built, {len(names)} layers, input of the convolution: {datatype}"


x = np.random.default_rng(1).normal(size=(1, 3, 28, 28)).astype(np.float32)
found = {}
for form in ("Q Pad DQ", "Q DQ Pad", "Q DQ Pad Q DQ", "Q DQ"):
    model = network(form.split())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = [runtime.run(None, {"x": x})[0] for runtime in (session, ReferenceEvaluator(model))]
    np.testing.assert_allclose(*answers, atol=0.05 * np.abs(answers[0]).max())
    found[form] = built(model)
    print(f"{form} Conv{', without a Pad' if 'Pad' not in form else ''}: {found[form]}")
expected = ["not built", "Float", "Int8", "Int8"]
sys.exit(0 if all(word in told for word, told in zip(expected, found.values(), strict=True)) else "the behaviour changed")
PYTHON
