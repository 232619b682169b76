#!/usr/bin/env bash
# Versions: aidge_onnx, aidge_core and aidge_backend_cpu 0.10.1 (Eclipse Aidge), onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its
#        reference evaluator, which agrees with it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: an ONNX network loaded into Aidge (made for exporting quantized networks to small devices) answers as in ONNX
#        Runtime, or is refused, as a transposed convolution of auto_pad is: what it loads, it computes.
# Seen:  Dropout drops: the file says nothing of training, and half of the values are 0 and the others doubled, others at
#        every run. QuantizeLinear rounds 0.5 up (2.5 becomes 3, -1.5 becomes -1) instead of to even. auto_pad SAME is
#        right where the stride divides the size and leaves off the last column where it does not. Gemm adds C although beta
#        is 0. Nothing warns.
# Output seen: "Dropout of ones: onnxruntime [1.], aidge [0. 2.], 0.5 of them 0; QuantizeLinear of [ 0.5  1.5  2.5 -0.5 -1.5 -2.5]: onnxruntime [ 0  2  2  0 -2 -2], aidge [ 1  2  3  0 -1 -2]; Conv SAME_UPPER of 9 columns: 5 became 4; Gemm with beta 0: off by 5.0, which is C"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aidge_onnx==0.10.1 aidge_core==0.10.1 aidge_backend_cpu==0.10.1 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | sed -n 's/^found //p'
import aidge_backend_cpu  # noqa: F401  registers the kernels
import aidge_core
import aidge_onnx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)


def answers(op: str, x: np.ndarray, constants: list[np.ndarray], **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and Aidge make of one operator."""
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], name="node", **attributes)
    tensors = [numpy_helper.from_array(values, name) for name, values in zip(names, constants, strict=True)]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    expected = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert np.allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], expected, atol=1e-4)
    graph = aidge_onnx.load_onnx("net.onnx")
    graph.set_backend("cpu")
    aidge_core.SequentialScheduler(graph).forward(forward_dims=True, data=[aidge_core.Tensor(x)])
    ((node, index),) = graph.get_ordered_outputs()
    return expected, np.array(node.get_operator().get_output(index))


one, zero = np.float32(1), np.int8(0)
halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.2], np.float32)
weights = random.normal(size=(4, 4, 3, 3)).astype(np.float32)
wrong = []
levels = answers("QuantizeLinear", halves, [one, zero])
dropped = answers("Dropout", np.ones((1, 1000), np.float32), [])
pictures = [random.normal(size=(1, 4, 8, width)).astype(np.float32) for width in (8, 9)]
same = [answers("Conv", picture, [weights], auto_pad="SAME_UPPER", strides=[2, 2]) for picture in pictures]
explicit = answers("Conv", pictures[1], [weights], pads=[0, 1, 1, 1], strides=[2, 2])
rows = random.normal(size=(2, 3)).astype(np.float32)
plain, beta = (answers("Gemm", rows, [weights[:3, :2, 0, 0].copy(), np.full(2, 5, np.float32)], beta=each) for each in (1.0, 0.0))

assert all(np.allclose(expected, got, atol=1e-4) for expected, got in (same[0], explicit, plain))
share, columns = round(float(np.mean(dropped[1] == 0)), 1), [answer.shape[-1] for answer in same[1]]
added = round(float(np.abs(beta[1] - beta[0]).max()), 2)
print(
    f"found Dropout of ones: onnxruntime {np.unique(dropped[0])}, aidge {np.unique(dropped[1])}, {share} of them 0; "
    f"QuantizeLinear of {halves[:6]}: onnxruntime {levels[0][:6]}, aidge {levels[1][:6]}; Conv SAME_UPPER of 9 columns: "
    f"{columns[0]} became {columns[1]}; Gemm with beta 0: off by {added}, which is C"
)
assert np.all(dropped[0] == 1) and set(np.unique(dropped[1])) == {0, 2} and share == 0.5, "the behaviour changed"
assert levels[0].tolist() == [0, 2, 2, 0, -2, -2, 3] and levels[1].tolist() == [1, 2, 3, 0, -1, -2, 3], "the behaviour changed"
assert columns == [5, 4] and added == 5, "the behaviour changed"
PYTHON
