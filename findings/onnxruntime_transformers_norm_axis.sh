#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.transformers.optimizer and its CPU), onnx 1.23.2 (its reference evaluator beside it),
#        sympy 1.14.0, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: the optimizer for transformers (optimize_model, model types "vit", "swin", "clip", "bert") joins a layer norm that is written
#        out to one node where it is over the last axis, which is all that the node knows, and leaves others alone, as the
#        optimizations of a session do, and as it does with a norm over height and width whose weights are [C, 1, 1].
# Seen:  a norm over the channels of a picture (ConvNeXt's own LayerNorm of channels first, mean(1) with weights [C, 1, 1]) keeps
#        its first mean, and what stands behind it becomes SimplifiedLayerNormalization of axis 1, which is over channels,
#        height and width together; an RMS norm of channels likewise. One over height and width with a single weight becomes
#        LayerNormalization over the columns. The files are valid, the answers those of another network; nothing is said.
# Output seen: "off: channels 1.62, channels RMS 1.99, height and width 1.41 (SimplifiedLayerNormalization, SimplifiedLayerNormalization, LayerNormalization); last axis 0.00, height and width by channel 0.00; sessions 0.00"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.optimizer import optimize_model

random = np.random.default_rng(0)
x = random.normal(1, 2, (1, 16, 14, 14)).astype(np.float32)


def norm(axes: list[int], shape: tuple[int, ...], is_centered: bool = True) -> onnx.ModelProto:
    """A norm as PyTorch's mean, pow and sqrt export it, with weights and, where it is centered, biases of a shape."""
    start, end = ("d", "m") if is_centered else ("x", "y")
    nodes = [helper.make_node("ReduceMean", ["x"], ["u"], axes=axes, keepdims=1), helper.make_node("Sub", ["x", "u"], ["d"])]
    nodes = nodes if is_centered else []
    nodes += [
        helper.make_node("Pow", [start, "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["s"], axes=axes, keepdims=1),
        helper.make_node("Add", ["s", "epsilon"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["q"]),
        helper.make_node("Div", [start, "q"], ["v"]),
        helper.make_node("Mul", ["weight", "v"], [end]),
    ]
    constants = {"two": np.float32(2), "epsilon": np.float32(1e-6), "weight": random.uniform(0.5, 2, shape).astype(np.float32)}
    if is_centered:
        nodes.append(helper.make_node("Add", ["m", "bias"], ["y"]))
        constants["bias"] = random.normal(size=shape).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def off(model: onnx.ModelProto, expected: np.ndarray) -> float:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return round(float(np.abs(session.run(None, {"x": x})[0] - expected).max()), 2)


networks = {
    "channels": norm([1], (16, 1, 1)),
    "channels RMS": norm([1], (16, 1, 1), is_centered=False),
    "height and width": norm([2, 3], (1,)),
    "last axis": norm([-1], (14,)),
    "height and width by channel": norm([2, 3], (16, 1, 1)),
}
found, sessions, kinds = {}, [], []
for name, model in networks.items():
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    onnx.save(model, "network.onnx")
    sessions.append(off(model, expected))
    for kind in ("vit", "swin", "clip", "bert"):
        optimized = optimize_model("network.onnx", model_type=kind, opt_level=0).model
        assert found.setdefault(name, off(optimized, expected)) == off(optimized, expected)
    kinds += [node.op_type for node in optimized.graph.node if "LayerNormalization" in node.op_type][:1]
told = [f"{name} {value:.2f}" for name, value in found.items()]
print(f"off: {', '.join(told[:3])} ({', '.join(kinds[:3])}); {', '.join(told[3:])}; sessions {max(sessions):.2f}")
wrong = list(found.values())
assert min(wrong[:3]) > 0.1 and max(*wrong[3:], *sessions) == 0, "the behaviour changed"
PYTHON
