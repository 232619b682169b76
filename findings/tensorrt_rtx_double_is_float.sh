#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (its ONNX parser; no GPU needed), onnxruntime 1.32.0, onnx 1.23.2.
#
# Guess: a file of DOUBLE (scikit-learn's and PyTorch's float64 networks; a normalization left in float64 by NumPy's
# constants) is refused, as INT16 and UINT16 are, or taken with a warning, as INT64 inputs are ("Make sure input x has
# Int64 binding"): a strongly typed network has the types of its file.
# Seen: every DOUBLE is FLOAT, inputs and outputs too, in a strongly typed network as well, and nothing is logged at WARNING
# or above as long as constants fit. The engine's input takes 4 bytes where the file says 8; 0.1 and 1e-60 become
# 0.10000000149 and 0; 1 + 1e-10 - 1 is 0.
#
# Output seen, 2026-11-29, Linux x86-64:
#   file: x DOUBLE, y DOUBLE; ONNX Runtime: 1 + 1e-10 - 1 is 1.000000082740371e-10
#   TensorRT-RTX: x FLOAT, y FLOAT, constants float32 [1e-10, -1.0, 0.0], 0 warnings; an INT64 input: 2 warnings
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 135 MB of downloads.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tensorrt-rtx==1.7.1.116 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
import tensorrt_rtx as trt
from onnx import ModelProto, TensorProto, helper, numpy_helper


class Log(trt.ILogger):
    """Counts what is as bad as a warning about the file's types."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity == trt.ILogger.WARNING and ("binding" in message or "type" in message.lower()):
            self.warnings.append(message)


def network(kind: int, numbers: list[float]) -> ModelProto:
    """x plus each of the numbers, in one type."""
    array_type = helper.tensor_dtype_to_np_dtype(kind)
    constants = [numpy_helper.from_array(np.array([n], array_type), f"c{i}") for i, n in enumerate(numbers)]
    names = ["x", *(f"t{i}" for i in range(len(numbers) - 1)), "y"]
    nodes = [helper.make_node("Add", [names[i], f"c{i}"], [names[i + 1]]) for i in range(len(numbers))]
    ends = [helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "sum", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


logger = Log()
builder = trt.Builder(logger)
typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def parsed(model: ModelProto) -> tuple[list[str], list[np.ndarray], int]:
    """Types of input and output, the constants, how many warnings."""
    logger.warnings.clear()
    definition = builder.create_network(typed)
    assert trt.OnnxParser(definition, logger).parse(model.SerializeToString())
    constants = []
    for place in range(definition.num_layers):
        layer = definition.get_layer(place)
        if layer.type == trt.LayerType.CONSTANT:
            layer.__class__ = trt.IConstantLayer
            constants.append(np.array(layer.weights))
    types = [end.dtype.name for end in (definition.get_input(0), definition.get_output(0))]
    return types, constants, len(logger.warnings)


double = network(TensorProto.DOUBLE, [1e-10, -1.0, 1e-60])
session = onnxruntime.InferenceSession(double.SerializeToString(), providers=["CPUExecutionProvider"])
right = float(session.run(None, {"x": np.ones(1)})[0][0])
print(f"file: x DOUBLE, y DOUBLE; ONNX Runtime: 1 + 1e-10 - 1 is {right}")
types, constants, warnings = parsed(double)
values = [float(f"{float(each[0]):.7g}") for each in constants]
_, _, warnings_of_int64 = parsed(network(TensorProto.INT64, [1]))
print(
    f"TensorRT-RTX: x {types[0]}, y {types[1]}, constants {constants[0].dtype} {values}, {warnings} warnings; "
    f"an INT64 input: {warnings_of_int64} warning{'s' * (warnings_of_int64 != 1)}"
)
sys.exit(0 if types == ["FLOAT", "FLOAT"] and warnings == 0 and warnings_of_int64 and values[2] == 0 else 1)
PYTHON
