#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (quantize_static, CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11,
#        x86-64.
# Guess: quantize_static knows Gemm's alpha and beta (it writes alpha into QGemm and takes beta into the bias' scale), so that a
#        classifier with a temperature (alpha) or a weighted bias (beta) is as right after it as one without: 40 dB here.
# Seen:  beta is made 1 and the INT32 bias is divided by it, where it should be multiplied. As Q/DQ its scale makes up for the
#        division, so that the bias counts once, 15 dB for a beta of 2; a session that fuses the Gemm does not read that
#        scale, so that it counts half, 11 dB: two answers of one file. In the QOperator format an alpha other than 1 spoils
#        the bias, too. As Q/DQ alpha is right, and a file written by hand with both factors is. Nothing is said.
# Output seen: "alpha, beta (1.0, 1.0): by hand 40, QDQ 39, QOperator 39, QDQ unfused 39, QDQ in the reference 39 dB; alpha, beta (0.5, 1.0): by hand 40, QDQ 39, QOperator 15, QDQ unfused 39, QDQ in the reference 39 dB; alpha, beta (1.0, 2.0): by hand 40, QDQ 11, QOperator 11, QDQ unfused 15, QDQ in the reference 15 dB; alpha, beta (1.0, 0.5): by hand 40, QDQ 11, QOperator 11, QDQ unfused 20, QDQ in the reference 20 dB;"
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
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
x = random.normal(size=(64, 12)).astype(np.float32)
weights = random.normal(size=(12, 5)).astype(np.float32)
bias = random.normal(size=5).astype(np.float32)
Level = onnxruntime.GraphOptimizationLevel


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter([{"x": x}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def graph(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 12), ("y", 5))]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_hand(alpha: float, beta: float) -> onnx.ModelProto:
    """Q/DQ around the input and the weights, and the bias in steps of both."""
    step, weight_step = (np.float32(np.abs(values).max() / 127) for values in (x, weights))
    tensors = {"s": step, "z": np.int8(0), "t": weight_step, "u": step * weight_step, "v": np.int32(0)}
    tensors |= {"w": np.round(weights / weight_step).astype(np.int8), "b": np.round(bias / tensors["u"]).astype(np.int32)}
    lines = [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "d"), ("DequantizeLinear", "w t z", "e")]
    nodes = [helper.make_node(kind, given.split(), [made]) for kind, given, made in [*lines, ("DequantizeLinear", "b u v", "c")]]
    return graph([*nodes, helper.make_node("Gemm", ["d", "e", "c"], ["y"], alpha=alpha, beta=beta)], tensors)


def run(model: onnx.ModelProto, level: Level) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def ratios(alpha: float, beta: float) -> dict[str, int]:
    """SQNR in dB against NumPy, for each way to quantize the Gemm."""
    want = alpha * x.astype(np.float64) @ weights + beta * bias
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=alpha, beta=beta)
    onnx.save(graph([node], {"w": weights, "b": bias}), "float.onnx")
    files = {"by hand": by_hand(alpha, beta)}
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        types = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        quantize_static("float.onnx", "int8.onnx", Batches(), quant_format=form, **types)
        files[form.name] = onnx.load("int8.onnx")
    answers = {name: run(model, Level.ORT_ENABLE_ALL) for name, model in files.items()}
    answers["QDQ unfused"] = run(files["QDQ"], Level.ORT_DISABLE_ALL)
    answers["QDQ in the reference"] = ReferenceEvaluator(files["QDQ"]).run(None, {"x": x})[0]
    return {name: round(10 * np.log10(np.mean(want**2) / np.mean((want - got) ** 2))) for name, got in answers.items()}


found = {factors: ratios(*factors) for factors in ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (1.0, 0.5))}
for factors, row in found.items():
    print(f"alpha, beta {factors}: {', '.join(f'{name} {ratio}' for name, ratio in row.items())} dB", end="; ")
print()
assert min(found[1.0, 1.0].values()) > 35 and min(row["by hand"] for row in found.values()) > 35, "the behaviour changed"
assert found[0.5, 1.0]["QDQ"] > 35 > 20 > found[0.5, 1.0]["QOperator"], "the behaviour changed"
for factors in ((1.0, 2.0), (1.0, 0.5)):
    row = found[factors]
    assert max(row["QDQ"], row["QOperator"], row["QDQ unfused"]) < 25, "the behaviour changed"
    assert row["QDQ"] != row["QDQ unfused"] == row["QDQ in the reference"], "the behaviour changed"
PYTHON
