#!/usr/bin/env bash
# ONNX Runtime 1.31.1, CPU. A dilated AveragePool (ONNX opset 19 and newer) between two Q/DQ pairs.
#
# One would guess: what has no integer kernel stays in float, as a Conv with a bias of another scale does, so the file
# opens and is only slower.
# It does not open: the optimizer makes it a com.microsoft.QLinearAveragePool and hands over the attribute `dilations`,
# which that operator does not have. With the optimizations off the same valid file runs.
#
# Seen (2026-11-29):
#     as written: [[2.5 3.  3. ] [4.5 5.  5. ] [4.5 5.  5. ]]
#     default session: INVALID_GRAPH, Unrecognized attribute: dilations for operator QLinearAveragePool
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort

model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 19]>
net (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] y)
  <float scale = {0.5}, uint8 zero = {0}> {
  q = QuantizeLinear (x, scale, zero)
  d = DequantizeLinear (q, scale, zero)
  p = AveragePool <kernel_shape = [2, 2], dilations = [2, 2], strides = [1, 1], pads = [0, 0, 1, 1]> (d)
  r = QuantizeLinear (p, scale, zero)
  y = DequantizeLinear (r, scale, zero)
}""")
onnx.checker.check_model(model, full_check=True)
x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) / 2
off = ort.SessionOptions()
off.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(model.SerializeToString(), off, providers=["CPUExecutionProvider"])
print("as written:", session.run(None, {"x": x})[0][0, 0])
try:
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
except Exception as err:
    print("default session:", str(err).splitlines()[0])
    sys.exit("Unrecognized attribute: dilations" not in str(err))
sys.exit("the default session opens now")
PYTHON
