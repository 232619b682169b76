#!/usr/bin/env bash
# Versions: tract 0.23.9 (its Python bindings), onnx 1.23.2, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: tract computes an operator as the standard has it, or refuses the file, as it does LpPool ("Unimplemented"), Pad of
#        mode "wrap" and 16-bit levels: it passes the backend tests of the operators that it lists.
# Seen:  GlobalLpPool of p = 2 is divided by the root of the number of pixels (a root of the mean, not of the sum), so a
#        descriptor of a 9 x 9 map is a ninth. Celu's lower half lacks the factor alpha, Swish's alpha is not read (both are
#        right where alpha is 1). ConvTranspose of output_shape takes an odd row off the end instead of the beginning: the
#        map lies one pixel elsewhere. Nothing is logged.
# Output seen: "GlobalLpPool 0.111 of the standard's; Celu alpha 1 0.0, alpha 2 off by 0.85, its lower half is 0.5 of the standard's; Swish alpha 1 0.0, alpha 1.5 off by 0.14; ConvTranspose output_shape 18: one pixel elsewhere True"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
X = random.normal(size=(1, 4, 9, 9)).astype(np.float32)
WEIGHTS = random.normal(size=(4, 2, 3, 3)).astype(np.float32)


def both(op_type: str, opset: int = 18, weights: np.ndarray | None = None, **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and tract answer to X."""
    names = ["x"] if weights is None else ["x", "w"]
    stored = [] if weights is None else [numpy_helper.from_array(weights, "w")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op_type, names, ["y"], **attributes)], "g", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{sys.argv[1]}/model.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": X})
    got = tract.onnx().load(f"{sys.argv[1]}/model.onnx").into_model().into_runnable().run([X])[0].to_numpy()
    assert got.shape == expected.shape
    return expected, got


def off(expected: np.ndarray, got: np.ndarray) -> float:
    return round(float(np.abs(expected - got).max()), 2)


standard, pooled = both("GlobalLpPool", p=2)
assert np.allclose(standard, np.sqrt((X.astype(np.float64) ** 2).sum((2, 3), keepdims=True)), rtol=1e-5)
share = float(np.median(pooled / standard))
celu = {alpha: both("Celu", alpha=alpha) for alpha in (1.0, 2.0)}
assert np.allclose(celu[2.0][0], np.maximum(X, 0) + np.minimum(2 * (np.exp(X / 2) - 1), 0), atol=1e-5)
lower = float(np.median((celu[2.0][1] / celu[2.0][0])[X < 0]))
swish = {alpha: both("Swish", 24, alpha=alpha) for alpha in (1.0, 1.5)}
assert np.allclose(swish[1.5][0], X / (1 + np.exp(-1.5 * X)), atol=1e-5)
expected, got = both("ConvTranspose", weights=WEIGHTS, strides=[2, 2], output_shape=[18, 18])
elsewhere = np.allclose(got[..., 1:, 1:], expected[..., :-1, :-1], atol=1e-5) and off(expected, got) > 1
print(
    f"GlobalLpPool {share:.3f} of the standard's; Celu alpha 1 {off(*celu[1.0])}, alpha 2 off by {off(*celu[2.0])}, its lower "
    f"half is {lower:.1f} of the standard's; Swish alpha 1 {off(*swish[1.0])}, alpha 1.5 off by {off(*swish[1.5])}; "
    f"ConvTranspose output_shape 18: one pixel elsewhere {elsewhere}"
)
assert abs(share - 1 / 9) < 1e-3 and abs(lower - 0.5) < 1e-3 and elsewhere, "the behaviour changed"
assert off(*celu[1.0]) == off(*swish[1.0]) == 0 and off(*swish[1.5]) > 0.1, "the behaviour changed"
PYTHON
