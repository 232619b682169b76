#!/usr/bin/env bash
# Versions: onnxruntime 1.31.1 and 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: two Q/DQ pairs in a row (one tensor brought to another scale, as a device does in front of a Concat or between two
#        quantized parts) round twice, or, where the first is finer, become the second. Where the first is coarse its few levels
#        remain, whatever comes behind; and session.disable_quant_qdq "1" computes every pair as the file has it.
# Seen:  they become one pair of a new scale: the range that both share over 255 steps. A first pair of 53 levels and a second
#        finer one give 256 levels, off by half a step of the coarse one and more; of 0.01 (zero point 20) and 0.013 (-40) it is
#        0.0087, the scale of neither. With disable_quant_qdq it is the same. So a session is more accurate than the file, and
#        than the device that computes it. Right are session.disable_double_qdq_remover "1" (its comment in the C header
#        speaks of removing the middle two nodes, not of a new scale) and no optimizations at all; equal scales stay equal.
# Output seen, of both: "levels of the file and of a plain session, off by: 0.1 then 0.02: 53 and 256, 0.060; 0.02 then 0.1: 52 and 256, 0.040; 0.01 then 0.013: 171 and 256, 0.014; 0.02 twice: 256 and 256, 0.000; disable_quant_qdq 0.060, disable_double_qdq_remover 0.000, no optimizations 0.000"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.linspace(-3, 3, 6001).astype(np.float32)


def network(*pairs: tuple[float, int]) -> onnx.ModelProto:
    """Pairs of INT8 in a row, each given by its scale and zero point."""
    nodes, tensors, name = [], [], "x"
    for index, (scale, zero) in enumerate(pairs):
        tensors.append(numpy_helper.from_array(np.array(scale, np.float32), f"s{index}"))
        tensors.append(numpy_helper.from_array(np.array(zero, np.int8), f"z{index}"))
        output = "y" if index == len(pairs) - 1 else f"d{index}"
        nodes.append(helper.make_node("QuantizeLinear", [name, f"s{index}", f"z{index}"], [f"q{index}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", f"s{index}", f"z{index}"], [output]))
        name = output
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, x.shape) for end in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model: onnx.ModelProto, entry: str = "", level: str = "ORT_ENABLE_ALL") -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if entry:
        options.add_session_config_entry(f"session.{entry}", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def levels(answer: np.ndarray) -> int:
    return len(np.unique(np.round(answer, 5)))


found, words = {}, []
for name, pairs in {
    "0.1 then 0.02": ((0.1, 0), (0.02, 0)),
    "0.02 then 0.1": ((0.02, 0), (0.1, 0)),
    "0.01 then 0.013": ((0.01, 20), (0.013, -40)),
    "0.02 twice": ((0.02, 0), (0.02, 0)),
}.items():
    model = network(*pairs)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    answer = session(model)
    found[name] = (levels(expected), levels(answer), float(np.abs(answer - expected).max()))
    words.append(f"{name}: {found[name][0]} and {found[name][1]}, {found[name][2]:.3f}")
model = network((0.1, 0), (0.02, 0))
(expected,) = ReferenceEvaluator(model).run(None, {"x": x})
others = {
    "disable_quant_qdq": session(model, "disable_quant_qdq"),
    "disable_double_qdq_remover": session(model, "disable_double_qdq_remover"),
    "no optimizations": session(model, level="ORT_DISABLE_ALL"),
}
errors = {name: float(np.abs(answer - expected).max()) for name, answer in others.items()}
print(
    f"levels of the file and of a plain session, off by: {'; '.join(words)}; "
    + ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
)
assert found.pop("0.02 twice")[2] < 1e-5, "the behaviour changed"
for few, many, error in found.values():
    assert many == 256 > few and error > 0.01, "the behaviour changed"
assert errors.pop("disable_quant_qdq") > 0.04 and max(errors.values()) < 1e-5, "the behaviour changed"
PYTHON
python3 -m venv "$folder/venv"
for version in 1.31.1 1.32.0; do
    "$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==$version onnx==1.23.2 numpy==2.4.6
    "$folder/venv/bin/python" "$folder/ask.py"
done
