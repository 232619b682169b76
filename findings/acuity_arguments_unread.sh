#!/usr/bin/env bash
# Versions: acuitylite 6.57.1 (VeriSilicon's tool for its NPUs, of i.MX 8M Plus, A311D and others; here its own inference in float, so
#        that nothing is quantized), TensorFlow 2.17.0, torch 1.12.1 (it imports both), onnx 1.16.2, NumPy 1.26.4; onnxruntime
#        1.22.1 (CPU) beside it; Python 3.10, x86-64.
# Guess: an ONNX file that OnnxLoader takes answers in its float inference as in ONNX Runtime, or is refused, as LpPool, Shrink,
#        Hardmax, an LRN of even size and a nearest Resize of "ceil" are: that inference is what INT8 is compared with.
# Seen:  the answers are others, by 5 to 185 % of the largest, with these arguments: TopK of largest=0, a Conv of SAME_LOWER, a
#        linear Resize of antialias=1 or by 0.7, a nearest one of "asymmetric", LpNormalization of p = 1, a PRelu with a slope
#        for each column, Selu, ArgMax of select_last_index; a Pad of axes gives another shape. Nothing is said. The same
#        operators without these arguments are right.
# Output seen: "right: Conv SAME_UPPER, TopK, ArgMax, PRelu of channels, Elu, LpNormalization p 2, Pad, Resize linear by 2, Resize nearest by 2; off, of the largest answer: Conv SAME_LOWER 132 %, TopK of the smallest 145 %, PRelu of columns 48 %, Selu 5 %, LpNormalization p 1 84 %, Resize linear by 0.7 42 %, Resize antialias 185 %, Resize nearest asymmetric 112 %, ArgMax of the last 100 %; Pad of axis -1 has another shape: True"
set -euo pipefail
python=$(command -v "$HOME"/.pyenv/versions/3.10.*/bin/python python3.10 | head -1) || { echo "needs Python 3.10"; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check acuitylite==6.57.1 onnx==1.16.2 onnxruntime==1.22.1 numpy==1.26.4 \
    protobuf==3.20.3 setuptools==65.5.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps torch==1.12.1
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>log >seen <<'PYTHON' || { tail -5 log; exit 1; }
import sys

import numpy as np
import onnx
import onnxruntime
from acuitylib.interface.importer import OnnxLoader
from acuitylib.interface.inference import Inference
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
x = random.normal(size=(1, 8, 9, 9)).astype(np.float32)


def numbers(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32) / 3


def off(kind: str, others: tuple = (), opset: int = 18, **attributes: object) -> float:
    """Return how far ACUITY is off ONNX Runtime, as a share of the largest answer; inf where the shape is another."""
    names = [f"c{place}" if values is not None else "" for place, values in enumerate(others)]
    outputs = ["y", "places"] if kind == "TopK" else ["y"]
    node = helper.make_node(kind, ["x", *names], outputs, name="layer", **attributes)
    tensors = [numpy_helper.from_array(np.asarray(values), name) for values, name in zip(others, names) if name]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    answer = helper.make_tensor_value_info("y", TensorProto.INT64 if kind == "ArgMax" else TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", ends, [answer], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "given.onnx")
    (want,) = onnxruntime.InferenceSession("given.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    inference = Inference(OnnxLoader("given.onnx").load())
    inference.build_session()
    got = np.asarray(inference.run_session([x])[-1][0])
    return float(np.abs(got - want).max() / np.abs(want).max()) if got.shape == want.shape else np.inf


def convolution(pad: str) -> float:
    settings = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": pad}
    return off("Conv", (kernels,), **{**settings, "kernel_shape": [2, 2]})


def resize(scale: float, **settings: object) -> float:
    return off("Resize", (None, np.array([1, 1, scale, scale], np.float32)), **settings)


kernels, three = numbers(8, 8, 2, 2), np.array([3])
border = np.array([0, 0, 1, 1, 0, 0, 1, 1])
right = {
    "Conv SAME_UPPER": convolution("SAME_UPPER"),
    "TopK": off("TopK", (three,), axis=3),
    "ArgMax": off("ArgMax", axis=1, keepdims=0),
    "PRelu of channels": off("PRelu", (numbers(8, 1, 1),)),
    "Elu": off("Elu", alpha=0.3),
    "LpNormalization p 2": off("LpNormalization", axis=1, p=2),
    "Pad": off("Pad", (border, np.float32(0.5))),
    "Resize linear by 2": resize(2, mode="linear"),
    "Resize nearest by 2": resize(2, mode="nearest"),
}
wrong = {
    "Conv SAME_LOWER": convolution("SAME_LOWER"),
    "TopK of the smallest": off("TopK", (three,), axis=3, largest=0),
    "PRelu of columns": off("PRelu", (numbers(9),)),
    "Selu": off("Selu"),
    "LpNormalization p 1": off("LpNormalization", axis=1, p=1),
    "Resize linear by 0.7": resize(0.7, mode="linear"),
    "Resize antialias": resize(0.5, mode="linear", antialias=1),
    "Resize nearest asymmetric": resize(1.7, mode="nearest", coordinate_transformation_mode="asymmetric"),
}
picture, x = x, np.round(x)
wrong["ArgMax of the last"] = off("ArgMax", axis=1, keepdims=0, select_last_index=1)
x = picture
axes = off("Pad", (np.array([1, 2]), np.float32(0.5), np.array([-1])))
print(
    f"right: {', '.join(right)}; off, of the largest answer: {', '.join(f'{name} {100 * one:.0f} %' for name, one in wrong.items())}; "
    f"Pad of axis -1 has another shape: {np.isinf(axes)}"
)
print(right, wrong, axes, file=sys.stderr)
assert max(right.values()) < 1e-4 and min(wrong.values()) > 0.02 and np.isinf(axes), "the behaviour changed"
PYTHON
grep right seen
