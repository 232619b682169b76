#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (its ONNX parser; no GPU needed), onnxruntime 1.32.0, onnx 1.23.2.
#
# Guess: QuantizeLinear without a zero point gives UINT8, as the standard says, so TensorRT treats it as one with a UINT8
# zero point of 0: with a warning that it takes INT8 instead, or not at all.
# Seen: it takes INT8 and says nothing, at WARNING or above, not even where the file declares its output UINT8. So -5 of
# step 0.1 is -50 instead of 0, and 20 is cut at 127 instead of being 200: a tensor behind a ReLU loses its upper half.
#
# Output seen, 2026-11-29, Linux x86-64:
#   ONNX Runtime: uint8 [0, 50, 200]
#   TensorRT-RTX, no zero point: INT8, 0 warnings
#   TensorRT-RTX, UINT8 zero point 0: INT8, 1 warnings
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 135 MB of downloads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-deps --target "$folder" \
    tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
python3 -m pip install --quiet --target "$folder" onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
import tensorrt_rtx_bindings as trt
from onnx import ModelProto, TensorProto, helper, numpy_helper


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.warnings = 0

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        self.warnings += "UINT8" in message and severity <= trt.ILogger.Severity.WARNING


def network(zero_point: bool) -> ModelProto:
    names = {"s": np.float32(0.1)} | ({"z": np.uint8(0)} if zero_point else {})
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in names.items()]
    ends = [helper.make_tensor_value_info(n, t, [3]) for n, t in (("x", TensorProto.FLOAT), ("q", TensorProto.UINT8))]
    graph = helper.make_graph([helper.make_node("QuantizeLinear", ["x", *names], ["q"])], "one", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


logger = Log()


def parsed(zero_point: bool) -> tuple[str, int]:
    """The type of the output, and how many warnings speak of UINT8."""
    logger.warnings = 0
    builder = trt.Builder(logger)
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(network(zero_point).SerializeToString()):
        return "refused", logger.warnings
    return str(definition.get_output(0).dtype).split(".")[-1], logger.warnings


session = onnxruntime.InferenceSession(network(False).SerializeToString(), providers=["CPUExecutionProvider"])
levels = session.run(None, {"x": np.array([-5, 5, 20], np.float32)})[0]
print(f"ONNX Runtime: {levels.dtype} {levels.tolist()}")
without, with_zero = parsed(zero_point=False), parsed(zero_point=True)
print(f"TensorRT-RTX, no zero point: {without[0]}, {without[1]} warnings")
print(f"TensorRT-RTX, UINT8 zero point 0: {with_zero[0]}, {with_zero[1]} warnings")
sys.exit(0 if levels.tolist() == [0, 50, 200] and without == ("INT8", 0) and with_zero[1] else 1)
PYTHON
