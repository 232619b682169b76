#!/usr/bin/env bash
# Versions: pnnx 20261020 (ONNX to ncnn), ncnn 1.0.20261020, onnx 1.23.2, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: pnnx brings a ResNet's ONNX file to ncnn with the same answers, or leaves an operator that ncnn does not know under
#        its ONNX name, with which ncnn then refuses to load ("layer ReduceMax not exists or registered").
# Seen:  ReduceMean and ReduceSum over one axis (the mean over channels of a spatial attention) become a Reduction without
#        axes: the map comes back as it was, all its channels. Over two axes they are right. AveragePool with
#        auto_pad SAME counts the zeros that it pads, which the operator leaves out (a MaxPool pads minus infinity). A
#        PRelu whose slopes [W] are, by broadcasting, one for each column gets them per channel. Swish's alpha is not read.
# Output seen: "over channels ReduceMean (9, 9, 9) for (1, 9, 9), ReduceSum (9, 9, 9) for (1, 9, 9); over rows and columns off by [0.0, 0.0]; off by, of the largest: AveragePool SAME_UPPER 0.5, MaxPool SAME_UPPER 0.0, PRelu [9] 0.2, [9, 1, 1] 0.0, Swish alpha 0.5 0.07, alpha 1 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ncnn==1.0.20261020 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps pnnx==20261020
"$folder/venv/bin/python" - "$folder" "$folder"/venv/lib/python3.*/site-packages/pnnx/pnnx <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import ncnn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
X = random.normal(size=(1, 4, 9, 9)).astype(np.float32)
WEIGHTS = random.normal(size=(9, 4, 1, 1)).astype(np.float32)
SLOPES = random.uniform(0.1, 0.5, 9).astype(np.float32)


def both(op_type: str, opset: int = 18, second: np.ndarray | None = None, **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and ncnn answer: a Conv of nine channels, then the operator."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node(op_type, ["map"] if second is None else ["map", "second"], ["y"], **attributes),
    ]
    stored = [numpy_helper.from_array(WEIGHTS, "w")]
    stored += [] if second is None else [numpy_helper.from_array(second, "second")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], stored), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    place = Path(sys.argv[1])
    onnx.save(model, place / "net.onnx")
    subprocess.run([sys.argv[2], "net.onnx", "fp16=0"], cwd=place, check=True, capture_output=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": X})
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(place / "net.ncnn.param")) == net.load_model(str(place / "net.ncnn.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(X[0]).clone())
    return expected[0], np.array(extractor.extract("out0")[1])


def off(op_type: str, opset: int = 18, second: np.ndarray | None = None, **attributes: object) -> float | str:
    expected, got = both(op_type, opset, second, **attributes)
    if expected.shape != got.shape:
        return f"{got.shape} for {expected.shape}"
    return round(float(np.abs(expected - got).max() / np.abs(expected).max()), 2)


def axes(*which: int) -> np.ndarray:
    return np.array(which)


one = {op_type: off(op_type, second=axes(1)) for op_type in ("ReduceMean", "ReduceSum")}
two = [off(op_type, second=axes(2, 3)) for op_type in one]
more = {
    "AveragePool SAME_UPPER": off("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "MaxPool SAME_UPPER": off("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "PRelu [9]": off("PRelu", second=SLOPES),
    "[9, 1, 1]": off("PRelu", second=SLOPES.reshape(9, 1, 1)),
    "Swish alpha 0.5": off("Swish", 24, alpha=0.5),
    "alpha 1": off("Swish", 24, alpha=1.0),
}
print(
    f"over channels ReduceMean {one['ReduceMean']}, ReduceSum {one['ReduceSum']}; over rows and columns off by {two}; off by, of "
    "the largest: " + ", ".join(f"{name} {by}" for name, by in more.items())
)
assert set(one.values()) == {"(9, 9, 9) for (1, 9, 9)"} and two == [0, 0], "the behaviour changed"
assert [value > 0.02 for value in more.values()] == [True, False, True, False, True, False], "the behaviour changed"
PYTHON
