#!/usr/bin/env bash
# Versions: onnxruntime 1.31.1 and 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a MatMul or Gemm whose weights are behind DequantizeLinear, and whose input is not (weight-only INT8: a classifier, an
#        attention head, a small file), is computed in float with those weights, as a Conv of the same weights is: nothing in the
#        file asks for an INT8 input, and there is no scale for one.
# Seen:  by default the session makes MatMulNBits of it, at accuracy level 4, which rounds each row of the input to INT8 in blocks of
#        its own choice while it runs. Per tensor, per channel or in blocks, INT8 or INT4, at any opset. The answers are off by
#        a percent of their size; where one value of the input is large (whose weights are 0 here, so that the answers are the
#        same), what is beside it in its block is gone, and the answers are wrong. Nothing is said. Right are a Conv, sessions with
#        session.qdq_matmulnbits_accuracy_level "0" or session.disable_quant_qdq "1", and the basic optimizations.
# Output seen, of both: "off in a plain session: MatMul 1.4 %, Gemm 1.4 %, with one input of 1000: MatMul 155 %, Gemm 155 %; accuracy level 0, no Q/DQ, basic: 0 %; Conv 0 %"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
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


def off(kind: str, given: np.ndarray, level: str = "ORT_ENABLE_ALL", entry: tuple[str, str] | None = None) -> int:
    """Return the largest difference from the file as it is written, in thousandths of the answers' deviation."""
    model, given = network(kind), given if kind != "Conv" else given[:, :, None, None]
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if entry is not None:
        options.add_session_config_entry(*entry)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": given})
    return round(1000 * float(np.abs(session.run(None, {"x": given})[0] - expected).max() / expected.std()))


found = [off("MatMul", x), off("Gemm", x), off("MatMul", peak), off("Gemm", peak)]
right = [
    off("MatMul", peak, entry=("session.qdq_matmulnbits_accuracy_level", "0")),
    off("MatMul", peak, entry=("session.disable_quant_qdq", "1")),
    off("MatMul", peak, level="ORT_ENABLE_BASIC"),
]
conv = off("Conv", peak)
one, two, three, four = (value / 10 for value in found)
print(
    f"off in a plain session: MatMul {one:.1f} %, Gemm {two:.1f} %, with one input of 1000: MatMul {three:.0f} %, "
    f"Gemm {four:.0f} %; accuracy level 0, no Q/DQ, basic: {max(right) / 10:.0f} %; Conv {conv / 10:.0f} %"
)
assert 5 < min(found[:2]) and max(found[:2]) < 50 and min(found[2:]) > 500, "the behaviour changed"
assert max(*right, conv) == 0, "the behaviour changed"
PYTHON
python3 -m venv "$folder/venv"
for version in 1.31.1 1.32.0; do
    "$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==$version onnx==1.23.2 numpy==2.4.6
    "$folder/venv/bin/python" "$folder/ask.py"
done
