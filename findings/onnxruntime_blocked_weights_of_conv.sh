#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a convolution between Q/DQ pairs whose weights are quantized in blocks (opset 21: one scale for so many input channels) is
#        computed in float, as one with weights of a kind that has no integer kernel; a file that opens in a session runs in it.
# Seen:  the session opens, having made a QLinearConv of it, which knows one scale or one for each output channel, and the first
#        run fails on the shape of the scales. Weights in blocks behind a MatMul run, and so do a Conv without QuantizeLinear
#        behind it, and the same file with session.disable_quant_qdq "1" or optimizations off.
# Output seen: "blocked weights: opens, run: Fail in QLinearConv; no Q/DQ 0.0 off, no optimizations 0.0 off, without the last pair 0.0 off; one scale a channel 0.0 off"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
x = random.normal(size=(1, 4, 8, 8)).astype(np.float32)
levels = random.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8)


def network(is_blocked: bool, has_last_pair: bool = True) -> onnx.ModelProto:
    shape = (6, 2, 3, 3) if is_blocked else (6,)
    scales = random.uniform(0.001, 0.01, shape).astype(np.float32)
    constants = {"w": levels, "ws": scales, "wz": np.zeros(shape, np.int8)}
    constants |= {"s": np.float32(0.05), "z": np.int8(0), "s2": np.float32(0.2)}
    how = {"axis": 1, "block_size": 2} if is_blocked else {"axis": 0}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"], **how),
        helper.make_node("Conv", ["d", "v"], ["c" if has_last_pair else "y"]),
    ]
    if has_last_pair:
        nodes.append(helper.make_node("QuantizeLinear", ["c", "s2", "z"], ["p"]))
        nodes.append(helper.make_node("DequantizeLinear", ["p", "s2", "z"], ["y"]))
    shapes = {"x": [1, 4, 8, 8], "y": [1, 6, 6, 6]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in shapes.items()]
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items() if name in used]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def off(model: onnx.ModelProto, entry: tuple[str, str] | None = None, level: str = "ORT_ENABLE_ALL") -> str:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if entry is not None:
        options.add_session_config_entry(*entry)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        (answer,) = session.run(None, {"x": x})
    except Exception as err:
        assert "QLinearConv" in str(err), err
        return f"opens, run: {type(err).__name__} in QLinearConv"
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    return f"{np.abs(answer - expected).max():.1f} off"


blocked = network(True)
found = [
    off(blocked),
    off(blocked, ("session.disable_quant_qdq", "1")),
    off(blocked, level="ORT_DISABLE_ALL"),
    off(network(True, has_last_pair=False)),
    off(network(False)),
]
print(f"blocked weights: {found[0]}; no Q/DQ {found[1]}, no optimizations {found[2]}, without the last pair {found[3]}; one scale a channel {found[4]}")
assert found == ["opens, run: Fail in QLinearConv"] + ["0.0 off"] * 4, "the behaviour changed"
PYTHON
