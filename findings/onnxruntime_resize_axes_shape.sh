#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (quant_pre_process, symbolic_shape_infer), onnx 1.23.2, sympy 1.14.0, NumPy 2.4.6; Python 3.11,
#        x86-64.
# Guess: quant_pre_process, the step that ONNX Runtime asks for before quantize_static ("please consider to run pre-processing"),
#        gives each tensor the shape that it has, or leaves it out where it cannot know; the file stays as valid as it was.
# Seen:  a Resize of opset 18 with the attribute `axes` gets the shape of its `sizes` or `scales` alone, without the axes that
#        they do not name. In front of a Conv that ends the whole step in an AssertionError without a word; as the network's
#        last operator the file is written with an output declared [16, 16] that is [1, 6, 16, 16], which onnx's
#        checker refuses. A Slice that takes nothing gets a negative size. Four sizes without `axes` are right, and with
#        skip_symbolic_shape=True, where onnx's own inference works alone, all are.
# Output seen: "default: axes before Conv AssertionError, axes last [16, 16] (checker refuses), empty Slice [1, -2, 8, 8] (checker refuses), all four [1, 6, 16, 16] (valid); skipped: [1, 6, 14, 14], [1, 6, 16, 16], [1, 0, 8, 8], [1, 6, 16, 16], all valid"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
x = random.normal(size=(1, 4, 8, 8)).astype(np.float32)
kernel = numpy_helper.from_array(random.normal(size=(6, 4, 3, 3)).astype(np.float32), "w")
point = numpy_helper.from_array(random.normal(size=(6, 4, 1, 1)).astype(np.float32), "w")
two, four = (numpy_helper.from_array(np.array(sizes), "sizes") for sizes in ([16, 16], [1, 6, 16, 16]))
ends = [numpy_helper.from_array(np.array([value]), name) for name, value in (("from", 4), ("to", 2), ("axis", 1))]


def resize(read: str, written: str, **axes: list[int]) -> onnx.NodeProto:
    return helper.make_node("Resize", [read, "", "", "sizes"], [written], mode="linear", **axes)


def conv(read: str, written: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, "w"], [written])


cut = helper.make_node("Slice", ["x", "from", "to", "axis"], ["m"])
cases = {
    "axes before Conv": ([resize("x", "m", axes=[2, 3]), conv("m", "y")], [two, kernel], "y"),
    "axes last": ([conv("x", "m"), resize("m", "y", axes=[2, 3])], [two, point], "y"),
    "empty Slice": ([cut, helper.make_node("Concat", ["x", "m"], ["y"], axis=1)], ends, "m"),
    "all four": ([conv("x", "m"), resize("m", "y")], [four, point], "y"),
}


def shapes(skip: bool) -> list[str]:
    """Pre-process each network from a file, and say what is declared and whether the file is valid."""
    said = []
    for name, (nodes, tensors, asked) in cases.items():
        sides = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
        sides.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
        graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
        onnx.save(model, "net.onnx")
        expected = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        try:
            quant_pre_process("net.onnx", "ready.onnx", skip_optimization=True, skip_symbolic_shape=skip)
        except AssertionError as error:
            said.append(f"{name} AssertionError{error}")
            continue
        ready = onnx.load("ready.onnx")
        answer = onnxruntime.InferenceSession("ready.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        assert np.array_equal(answer, expected)
        values = [value for value in (*ready.graph.value_info, *ready.graph.output) if value.name == asked]
        (declared,) = {tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in values}
        try:
            onnx.checker.check_model(ready, full_check=True)
            verdict = "valid"
        except onnx.shape_inference.InferenceError:
            verdict = "checker refuses"
        said.append(f"{name} {list(declared)} ({verdict})")
    return said


default, skipped = shapes(skip=False), shapes(skip=True)
assert all(words.endswith("(valid)") for words in skipped), skipped
right = ", ".join(words[words.index("[") : words.index("]") + 1] for words in skipped)
output = f"default: {', '.join(default)}; skipped: {right}, all valid"
print(output)
assert default == [
    "axes before Conv AssertionError",
    "axes last [16, 16] (checker refuses)",
    "empty Slice [1, -2, 8, 8] (checker refuses)",
    "all four [1, 6, 16, 16] (valid)",
], "the behaviour changed"
PYTHON
