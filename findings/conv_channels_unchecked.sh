#!/usr/bin/env bash
# onnx 1.23.2 (onnx.checker, shape inference) and onnxruntime 1.31.1, CPU.
#
# Guess: an ONNX file whose Conv has weights [4, 3, 3, 3] (group 1) but whose input is declared [N, 8, 6, 6] is refused by
# onnx.checker.check_model(full_check=True), or by strict shape inference, or at the latest when a session is made.
# Seen: all three accept it, and inference even gives it an output shape. Only running it fails ("Input channels C is not
# equal to kernel channels * group"). So a file of the wrong channel count passes every static check there is, and its
# user learns of it with the first picture.
#
# Output seen:
#   checker accepts it
#   strict shape inference accepts it, output ['N', 4, 4, 4]
#   a session accepts it
#   running it: Input channels C is not equal to kernel channels * group. C: 8 kernel channels: 3 group: 1
#
# Exits with 1 if one of them refuses it earlier.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
net (float[N, 8, 6, 6] x) => (float[N, 4, A, B] y) { y = Conv (x, w) }""")
model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
try:
    onnx.checker.check_model(model, full_check=True)
    print("checker accepts it")
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shape = [dim.dim_param or dim.dim_value for dim in typed.graph.output[0].type.tensor_type.shape.dim]
    print("strict shape inference accepts it, output", shape)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    print("a session accepts it")
except Exception as error:
    print("refused earlier:", error)
    sys.exit(1)
try:
    session.run(None, {"x": np.ones((1, 8, 6, 6), np.float32)})
except Exception as error:
    print("running it:", str(error).partition("Status Message: ")[2].strip())
    sys.exit(0)
sys.exit("it ran")
PYTHON
