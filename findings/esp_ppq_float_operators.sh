#!/usr/bin/env bash
# Versions: esp-ppq 1.3.12 (Espressif's quantizer for ESP32 chips), torch 2.14.1 (CPU), onnxruntime 1.32.0 (CPU), onnx 1.19.1,
#        NumPy 2.4.6; Python 3.11, x86-64.
# Guess: the executor with which esp-ppq calibrates a float ONNX file, and to which its error report compares the quantized one,
#        answers as ONNX Runtime does, or refuses, as it does LpPool, LRN, GroupNormalization and Upsample.
# Seen:  what PyTorch's function does by default stands in for what the file says. An AveragePool counts its padding unless told
#        (ONNX does not), and a pool without strides moves by its window instead of by 1. InstanceNormalization has epsilon
#        1e-5 whatever the file says, a linear Resize of "asymmetric" (TensorFlow's files) is placed by half pixels, SpaceToDepth
#        is PyTorch's pixel_unshuffle (channels in another order), ConvTranspose takes the padding of rows for that of columns.
#        Ranges are those of another network, and the report, which knows no other answer, is content. Nothing warns.
# Output seen: "off, of the largest value: AveragePool 37 %, InstanceNormalization 5 %, Resize 38 %, SpaceToDepth 108 %,
#        ConvTranspose 136 %; AveragePool without strides 4 x 4 for 8 x 8; counted padding, half_pixel, DepthToSpace: 0 %"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check esp-ppq==1.3.12 torch==2.14.1 onnx==1.19.1 onnxruntime==1.32.0 \
    numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import contextlib
import os

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    from esp_ppq.api import load_onnx_graph
    from esp_ppq.executor import TorchExecutor

rng = np.random.default_rng(0)
x = rng.normal(size=(1, 4, 9, 9)).astype(np.float32)


def executor_and_file(kind: str, constants: dict, **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    inputs = ["x", *("" if value is None else name for name, value in constants.items())]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None]
    graph = helper.make_graph([helper.make_node(kind, inputs, ["y"], "node", **attributes)], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        executor = TorchExecutor(load_onnx_graph("model.onnx"), device="cpu")
        got = executor.forward([torch.from_numpy(x)])[0].numpy()
    return got, session.run(None, {"x": x})[0]


def off(kind: str, constants: dict, **attributes: object) -> int:
    """Give the largest difference, in per cent of the largest value."""
    got, expected = executor_and_file(kind, constants, **attributes)
    return round(100 * float(np.abs(got - expected).max() / np.abs(expected).max()))


pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
ones, nothing = np.ones(4, np.float32), np.zeros(0, np.float32)
norm = {"scale": 2 * ones, "bias": ones}
resize = {"roi": nothing, "scales": np.array([1, 1, 1.5, 2], np.float32)}
up = {"w": rng.normal(size=(4, 6, 3, 3)).astype(np.float32)}
wrong = {
    "AveragePool": off("AveragePool", {}, **pool),
    "InstanceNormalization": off("InstanceNormalization", norm, epsilon=0.1),
    "Resize": off("Resize", resize, mode="linear", coordinate_transformation_mode="asymmetric"),
    "SpaceToDepth": off("SpaceToDepth", {}, blocksize=3),
    "ConvTranspose": off("ConvTranspose", up, strides=[2, 2], pads=[0, 1, 1, 0]),
}
right = [
    off("AveragePool", {}, **pool, count_include_pad=1),
    off("Resize", resize, mode="linear", coordinate_transformation_mode="half_pixel"),
    off("DepthToSpace", {}, blocksize=2),
]
sizes = [" x ".join(map(str, value.shape[2:])) for value in executor_and_file("AveragePool", {}, kernel_shape=[2, 2])]
print(
    f"off, of the largest value: {', '.join(f'{name} {error} %' for name, error in wrong.items())}; AveragePool without "
    f"strides {sizes[0]} for {sizes[1]}; counted padding, half_pixel, DepthToSpace: {max(right)} %"
)
assert min(wrong.values()) > 2 and max(right) == 0 and sizes == ["4 x 4", "8 x 8"], "the behaviour changed"
PYTHON
