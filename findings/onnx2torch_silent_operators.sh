#!/usr/bin/env bash
# onnx2torch 1.5.15 (with torch 2.14.1), onnxruntime 1.32.0 (CPU), onnx 1.23.2, NumPy 2.4.6.
#
# Guess: onnx2torch gives a module that answers as the file does, warns, as it does for a Resize that PyTorch has no like of
# ("results might differ significantly"), or refuses, as for opset 18's reductions: this is how ONNX networks get into PyTorch
# for fine-tuning and for its quantizers.
# Seen: for some it does none of these. ReduceMax and ReduceMin over the axes [-1, -2] without keepdims (a global maximum
# pool) take away the last axis, then count -2 anew: they reduce columns and channels, and keep the rows. Where there are
# as many rows as channels even the shape is right. ConvTranspose forgets output_shape, and a PRelu of one slope for
# each column gives it to each channel. The same reductions over [2, 3] or with keepdims, ReduceMean, pads
# and slopes of [C, 1, 1] are right. (The files are of opset 13, which its page recommends.)
#
# Output seen:
#   wrong: ReduceMax [-1, -2] 1.84, ReduceMin [-1, -2] 1.25, ConvTranspose output_shape (14, 14) became (15, 15), PRelu of columns 1.93; right: 5
#
# Exits with 1 if that changes. Needs pip and Python 3.11; torch is the large part of the download. With
# PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check onnx2torch==1.5.15 torch==2.14.1 torchvision==0.29.1 \
        onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
fi
"$python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import onnx
import onnx2torch
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

warnings.simplefilter("error", UserWarning)  # whatever onnx2torch warns of is no finding
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
C = H = W = 7


def answers(op: str, opset: int, inputs: list[np.ndarray], **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and the module made by onnx2torch answer; inputs behind x are constants."""
    x = random.normal(size=(2, C, H, W)).astype(np.float32)
    tensors = [numpy_helper.from_array(values, f"c{i}") for i, values in enumerate(inputs)]
    node = helper.make_node(op, ["x", *(tensor.name for tensor in tensors)], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        got = onnx2torch.convert(model).eval()(torch.from_numpy(x)).numpy()
    return session.run(None, {"x": x})[0], got


def normal(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


last = {"axes": [-1, -2], "keepdims": 0}
kernel, slopes = normal(C, 3, 3, 3), np.linspace(0, 1, W, dtype=np.float32)
cases = {
    "ReduceMax [-1, -2]": ("ReduceMax", 13, [], last),
    "ReduceMin [-1, -2]": ("ReduceMin", 13, [], last),
    "ConvTranspose output_shape": ("ConvTranspose", 13, [kernel], {"strides": [2, 2], "output_shape": [14, 14]}),
    "PRelu of columns": ("PRelu", 13, [slopes], {}),
    "ReduceMax [2, 3]": ("ReduceMax", 13, [], {"axes": [2, 3], "keepdims": 0}),
    "ReduceMax keepdims": ("ReduceMax", 13, [], {"axes": [-1, -2]}),
    "ReduceMean": ("ReduceMean", 13, [], last),
    "ConvTranspose pads": ("ConvTranspose", 13, [kernel], {"strides": [2, 2], "pads": [1] * 4}),
    "PRelu of channels": ("PRelu", 13, [slopes.reshape(C, 1, 1)], {}),
}
wrong = {}
for name, (op, opset, inputs, attributes) in cases.items():
    expected, got = answers(op, opset, [np.asarray(values) for values in inputs], **attributes)
    if got.shape != expected.shape:
        wrong[name] = f"{expected.shape[2:]} became {got.shape[2:]}"
    elif not np.allclose(got, expected, atol=1e-3):
        wrong[name] = f"{np.abs(got - expected).max():.2f}"
print(f"wrong: {', '.join(f'{name} {value}' for name, value in wrong.items())}; right: {len(cases) - len(wrong)}")
sys.exit(list(wrong) != list(cases)[:4])
PYTHON
