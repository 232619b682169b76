#!/usr/bin/env bash
# Versions: onnx 1.23.2 (its reference evaluator), onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: onnx.reference.ReferenceEvaluator, the standard's own, computes what the standard's text says; a runtime that
#        differs from it is wrong.
# Seen:  not for these, where ONNX Runtime and a few lines of NumPy after the text agree with each other and not with it:
#        Softmax, LogSoftmax and Hardmax before opset 13 are over one axis instead of all from it on; LRN counts to the
#        number of pictures instead of channels, so that of one picture all channels but the first stay as they were divided
#        by bias**beta; LpNormalization of p = 1 adds x, not |x|; MaxPool of SAME_LOWER pads at the end. Nothing warns.
# Output seen: "off by: Softmax 11 0.83, LogSoftmax 11 5.75, Hardmax 11 1.0, LRN 1.44, LpNormalization p=1 22.63, MaxPool SAME_LOWER 2.72; Softmax 13 0.0, LRN of 8 pictures 0.0, LpNormalization p=2 0.0, MaxPool SAME_UPPER 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

picture = np.random.default_rng(0).normal(size=(1, 8, 6, 6)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.reshape(len(x), -1) - x.max())
    return (powers / powers.sum(1, keepdims=True)).reshape(x.shape)


def hardmax(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return (np.arange(flat.shape[1]) == flat.argmax(1)[:, None]).reshape(x.shape).astype(np.float32)


def lrn(x: np.ndarray) -> np.ndarray:
    squares = np.pad(x**2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    return x / (2 + 3.0 / 3 * sum(squares[:, first : first + x.shape[1]] for first in range(3))) ** 0.75


def pool(x: np.ndarray, begin: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (begin, 1 - begin), (begin, 1 - begin)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    return windows.max((-2, -1))


def off(kind: str, opset: int, text: Callable[[np.ndarray], np.ndarray], x: np.ndarray = picture, **options: object) -> float:
    """Return how far the evaluator is from the text, which ONNX Runtime follows."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"]))
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **options)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], text(x), atol=1e-5)
    (got,) = ReferenceEvaluator(model).run(None, {"x": x})
    return round(float(np.abs(got - text(x)).max()), 2)


lrn_options = {"size": 3, "alpha": 3.0, "beta": 0.75, "bias": 2.0}
pool_options = {"kernel_shape": [3, 3], "strides": [2, 2]}
several = np.repeat(picture, 8, axis=0)
wrong = {
    "Softmax 11": off("Softmax", 11, softmax),
    "LogSoftmax 11": off("LogSoftmax", 11, lambda x: np.log(softmax(x))),
    "Hardmax 11": off("Hardmax", 11, hardmax),
    "LRN": off("LRN", 17, lrn, **lrn_options),
    "LpNormalization p=1": off("LpNormalization", 17, lambda x: x / np.abs(x).sum(1, keepdims=True), axis=1, p=1),
    "MaxPool SAME_LOWER": off("MaxPool", 17, lambda x: pool(x, 1), auto_pad="SAME_LOWER", **pool_options),
}
right = {
    "Softmax 13": off("Softmax", 13, lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), axis=1),
    "LRN of 8 pictures": off("LRN", 17, lrn, several, **lrn_options),
    "LpNormalization p=2": off("LpNormalization", 17, lambda x: x / np.sqrt((x**2).sum(1, keepdims=True)), axis=1, p=2),
    "MaxPool SAME_UPPER": off("MaxPool", 17, lambda x: pool(x, 0), auto_pad="SAME_UPPER", **pool_options),
}
told = ["; ".join([", ".join(f"{name} {value}" for name, value in part.items())]) for part in (wrong, right)]
print(f"off by: {'; '.join(told)}")
assert min(wrong.values()) > 0.1 and max(right.values()) == 0, "the behaviour changed"
PYTHON
