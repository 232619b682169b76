#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (quantize_static, CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: two layers may name the same bias: a detection head that is run on several maps has its weights and biases once, and so
#        has a file whose equal tensors were made one. Each layer adds it in steps of its own input and weights, in both of
#        quantize_static's formats.
# Seen:  as Q/DQ it is so, for such a bias is stored twice. In the QOperator format it is made INT32 once, in the steps of the
#        layer that comes first, and every other QLinearConv adds these integers in steps of its own. A head on two maps, the
#        second ten times as large, has 45 dB on the first and -7 dB on the second. Two biases of the same numbers are right.
# Output seen: "SQNR on both maps: QDQ QUInt8, shared 45 and 38; QDQ QInt8, shared 45 and 38; QOperator QUInt8, shared 45 and -7; QOperator QInt8, shared 45 and -7; QDQ QUInt8 45 and 38; QDQ QInt8 45 and 38; QOperator QUInt8 45 and 38; QOperator QInt8 45 and 38 dB"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import logging
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
maps = {"p": random.normal(size=(16, 4, 8, 8)).astype(np.float32)}
maps["q"] = 10 * random.normal(size=(16, 4, 4, 4)).astype(np.float32)
weights = (0.3 * random.normal(size=(6, 4, 3, 3))).astype(np.float32)
bias = (4 * random.normal(size=6)).astype(np.float32)


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter([maps])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def head(shared: bool) -> onnx.ModelProto:
    """One convolution on both maps, its bias named once or stored twice."""
    biases = dict.fromkeys(("b", "b") if shared else ("b", "c"), bias)
    names = zip("pq", ("b", "b" if shared else "c"), ("first", "second"), strict=True)
    nodes = [helper.make_node("Conv", [data, "w", named], [made], name=made, pads=[1] * 4) for data, named, made in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *value.shape[1:]]) for name, value in maps.items()]
    outputs = [helper.make_tensor_value_info(node.name, TensorProto.FLOAT, None) for node in nodes]
    tensors = [numpy_helper.from_array(value, name) for name, value in {"w": weights, **biases}.items()]
    graph = helper.make_graph(nodes, "head", ends, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(path: str) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, maps)


found: dict[str, list[int]] = {}
for shared in (True, False):
    onnx.save(head(shared), "float.onnx")
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        for activation in (QuantType.QUInt8, QuantType.QInt8):
            types = {"activation_type": activation, "weight_type": QuantType.QInt8}
            quantize_static("float.onnx", "int8.onnx", Batches(), quant_format=form, **types)
            pairs = zip(run("float.onnx"), run("int8.onnx"), strict=True)
            ratios = [round(10 * np.log10(np.mean(want**2) / np.mean((want - got) ** 2))) for want, got in pairs]
            found[f"{form.name} {activation.name}{', shared' * shared}"] = ratios
words = "; ".join(f"{name} {first} and {second}" for name, (first, second) in found.items())
print(f"SQNR on both maps: {words} dB")
for name, (first, second) in found.items():
    right = not (name.startswith("QOperator") and "shared" in name)
    assert first > 33 and (second > 33 if right else second < 15), "the behaviour changed"
PYTHON
