#!/usr/bin/env bash
# Versions: onnx-quantize 0.2.0 (a quantizer on onnx_ir and onnxscript), onnxscript 0.7.2, onnx-ir 1.1.0, onnxruntime 1.32.0
#        (CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: quantize() of a Gemm keeps what the operator says, at any granularity within some percent, as it does transB, a bias
#        and channels of very different size; what it cannot say it leaves in float, as it does an operator of another kind.
# Seen:  alpha and beta are forgotten: the function that stands in the file for the Gemm has neither. A classifier
#        with a temperature (alpha 1/2) answers with scores twice as large, one with beta 2 adds half of its bias: 0 dB instead
#        of 40. Static, dynamic, weights alone, per tensor, channel and group are alike. Nothing warns, and the checker and
#        ONNX Runtime take the file, which gives the same answers as the one made of the Gemm without the two.
# Output seen: "SQNR plain / transB / alpha 0.5, beta 2: static 40 40 0, per channel 42 42 0, dynamic 40 40 0, weights 42 42 0, groups of 4 50 50 0 dB; as without the two: 5 of 5"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx_quantize==0.2.0 onnxscript==0.7.2 onnx-ir==1.1.0 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx_quantize import QConfig, quantize

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
x = random.normal(size=(64, 12)).astype(np.float32)
weights = (random.normal(size=(12, 5)) * [1, 0.01, 5, 0.1, 1]).astype(np.float32)
bias = random.normal(size=5).astype(np.float32)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def gemm(kernel: np.ndarray, **attributes: float) -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 12), ("y", 5))]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(kernel), "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


networks = [gemm(weights), gemm(weights.T, transB=1), gemm(weights, alpha=0.5, beta=2.0)]
kinds = {
    "static": {"calibration_data": x},
    "per channel": {"calibration_data": x, "group_size": -1},
    "dynamic": {"is_static": False},
    "weights": {"weights_only": True},
    "groups of 4": {"weights_only": True, "group_size": 4},
}
found, same = {}, 0
for name, options in kinds.items():
    answers = [run(quantize(network, QConfig(**options))) for network in networks]
    pairs = list(zip([run(network) for network in networks], answers, strict=True))
    found[name] = [10 * np.log10(np.mean(want**2) / np.mean((want - got) ** 2)) for want, got in pairs]
    same += np.array_equal(answers[0], answers[2])
words = ", ".join(f"{name} {' '.join(f'{ratio:.0f}' for ratio in ratios)}" for name, ratios in found.items())
print(f"SQNR plain / transB / alpha 0.5, beta 2: {words} dB; as without the two: {same} of {len(kinds)}")
assert all(plain > 35 and turned > 35 and scaled < 3 for plain, turned, scaled in found.values()), "the behaviour changed"
assert same == len(kinds), "the behaviour changed"
PYTHON
