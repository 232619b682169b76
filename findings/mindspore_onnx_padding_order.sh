#!/usr/bin/env bash
# Versions: mindspore 2.10.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: mindspore.export(..., file_format="ONNX") writes a layer with the numbers that it computes with, or refuses, as it
#        does for pools with padding, HSwish, GroupNorm and most others ("Can not find key ... in convert map").
# Seen:  a Conv2d's four paddings are top, bottom, left, right in MindSpore and top, left, bottom, right in ONNX; they
#        are written as they stand. (0, 1, 0, 1), TensorFlow's SAME at stride 2, pads columns on both sides and rows not
#        at all: a map of 8 x 8 becomes 3 x 4 instead of 4 x 4, which a mean over it hides (ONNX Runtime logs a shape
#        that does not match). LogSoftmax over the channels of a map is written in an opset where it goes over all axes
#        from there on; Softmax beside it is right. Exporting says nothing.
# Output seen: "Conv2d (0, 1, 0, 1) 3 x 4 for 4 x 4, mean off by 2.6 of 2.1; (1, 1, 1, 1) off by 0.0;
#        LogSoftmax off by 5.46, Softmax by 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mindspore==2.10.0 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6
cd "$folder"
GLOG_v=3 "$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import mindspore
import numpy as np
import onnx
import onnxruntime
from mindspore import Tensor, nn
from onnx.reference import ReferenceEvaluator

mindspore.set_context(mode=mindspore.GRAPH_MODE)
mindspore.set_device("CPU")
rng = np.random.default_rng(0)
x = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
weight = Tensor(rng.normal(size=(6, 4, 3, 3)).astype(np.float32))


def mindspore_and_file(layer: nn.Cell) -> tuple[np.ndarray, np.ndarray]:
    layer.set_train(False)
    expected = layer(Tensor(x)).asnumpy()
    mindspore.export(layer, Tensor(x), file_name="model", file_format="ONNX")
    onnx.checker.check_model("model.onnx")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return expected, session.run(None, {session.get_inputs()[0].name: x})[0]


def off(layer: nn.Cell) -> float:
    expected, got = mindspore_and_file(layer)
    return round(float(np.abs(got - expected).max()), 2)


def conv(*padding: int) -> nn.Cell:
    return nn.Conv2d(4, 6, 3, 2, pad_mode="pad", padding=padding, weight_init=weight)


expected, got = mindspore_and_file(conv(0, 1, 0, 1))
named = onnx.load("model.onnx").graph.input[0].name
assert np.allclose(ReferenceEvaluator("model.onnx").run(None, {named: x})[0], got, atol=1e-4), "the file itself says so"
sizes = [" x ".join(map(str, value.shape[2:])) for value in (got, expected)]
means = [value.mean((2, 3)) for value in (got, expected)]
difference, largest = (float(np.abs(value).max()) for value in (means[0] - means[1], means[1]))
even, log_softmax, softmax = off(conv(1, 1, 1, 1)), off(nn.LogSoftmax(1)), off(nn.Softmax(1))
print(
    f"Conv2d (0, 1, 0, 1) {sizes[0]} for {sizes[1]}, mean off by {difference:.2g} of {largest:.2g}; (1, 1, 1, 1) off by {even}; "
    f"LogSoftmax off by {log_softmax}, Softmax by {softmax}"
)
assert sizes == ["3 x 4", "4 x 4"] and difference > 0.1 * largest and log_softmax > 1, "the behaviour changed"
assert even == softmax == 0, "what was right is not any more"
PYTHON
