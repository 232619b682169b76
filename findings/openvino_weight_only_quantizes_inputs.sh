#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU with AVX-512 and VNNI), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a MatMul or Gemm of float inputs with INT8 weights behind DequantizeLinear is computed in float with those weights; at
#        the latest with INFERENCE_PRECISION_HINT "f32", which says what floats are computed in, and keeps BF16 away.
# Seen:  each row of the input is rounded to INT8 in blocks of 32, at "f32", too. The answers are off by a percent of their
#        size; beside one large input (whose weights are 0 here) the others of its block are lost, and the answers wrong.
#        Nothing is said. With DYNAMIC_QUANTIZATION_GROUP_SIZE "0" they are right, and a Conv of the same weights is.
#        ONNX Runtime does the same by default (onnxruntime_weight_only_quantizes_inputs.sh).
# Output seen: "off at f32: MatMul 1.4 %, Gemm 1.4 %, with one input of 1000: MatMul 155 %, Gemm 155 %; group size 0, Conv: 0.0 %"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
levels = random.integers(-127, 128, (64, 8)).astype(np.int8)
x = random.normal(size=(3, 64)).astype(np.float32)
peak = x.copy()
peak[:, 0] = 1000  # its weights are 0: the answers stay
levels[0] = 0


def network(kind: str) -> onnx.ModelProto:
    stored = levels if kind != "Conv" else levels.T.reshape(8, 64, 1, 1)
    constants = {"levels": stored, "scales": np.full(8, 0.01, np.float32), "zeros": np.zeros(8, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", list(constants), ["weights"], axis=0 if kind == "Conv" else 1),
        helper.make_node(kind, ["x", "weights"], ["y"]),
    ]
    shapes = {"x": [3, 64], "y": [3, 8]} if kind != "Conv" else {"x": [3, 64, 1, 1], "y": [3, 8, 1, 1]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def off(kind: str, given: np.ndarray, **properties: str) -> float:
    """Return the largest difference from the file as it is written, over the answers' deviation, in percent."""
    model, given = network(kind), given if kind != "Conv" else given[:, :, None, None]
    core = openvino.Core()
    wanted = {"INFERENCE_PRECISION_HINT": "f32", **properties}
    answer = core.compile_model(core.read_model(model.SerializeToString()), "CPU", wanted)(given)[0]
    (expected,) = ReferenceEvaluator(model).run(None, {"x": given})
    return float(100 * np.abs(answer - expected).max() / expected.std())


found = [off("MatMul", x), off("Gemm", x), off("MatMul", peak), off("Gemm", peak)]
right = max(off("MatMul", peak, DYNAMIC_QUANTIZATION_GROUP_SIZE="0"), off("Conv", peak))
print(
    f"off at f32: MatMul {found[0]:.1f} %, Gemm {found[1]:.1f} %, with one input of 1000: MatMul {found[2]:.0f} %, "
    f"Gemm {found[3]:.0f} %; group size 0, Conv: {right:.1f} %"
)
assert min(found[:2]) > 0.5 and min(found[2:]) > 50 and right < 0.05, "the behaviour changed"
PYTHON
