#!/usr/bin/env bash
# AIMET 2.42.0 (aimet-onnx), default configuration.
#
# Guess: the configuration's supergroups (Conv + Relu, Conv + Clip) say that nothing is quantized between a convolution and
# its rectifier, as every kernel fuses them; a depthwise convolution is a Conv node of ONNX like any other.
# Seen: a depthwise one is left out of the supergroups. A quantizer with the range of the convolution stands before its
# ReLU6, so that 8 of 256 levels are left for 0 to 6 in the first block of EfficientNet-Lite0: 7.9 dB of SQNR there, 16.1
# with these quantizers switched off. A Conv of one group beside it is joined.
#
# Output seen, 2026-11-29:
#   quantized behind the Conv: group 1 False, group 4 (depthwise) True, group 2 False
#
# Exits with 1 if that changes. Needs pip and Python 3.11; AIMET imports torch, whose download is the large part. With
# PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check aimet-onnx==2.42.0 onnx==1.23.2 numpy==2.4.6 torch==2.14.1
fi
"$python" - 2>/dev/null <<'PYTHON' | grep '^quantized'
import sys
from importlib.metadata import version

import aimet_onnx
import numpy as np
import onnx
from onnx import numpy_helper

assert version("aimet-onnx") == "2.42.0", version("aimet-onnx")
random = np.random.default_rng(0)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
net (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) <float low = {0}, float high = {6}> {
  whole = Conv <pads = [1, 1, 1, 1]> (x, w)
  a = Clip (whole, low, high)
  depthwise = Conv <group = 4, pads = [1, 1, 1, 1]> (a, v)
  b = Clip (depthwise, low, high)
  halves = Conv <group = 2, pads = [1, 1, 1, 1]> (b, u)
  y = Clip (halves, low, high)
}""")
for node in model.graph.node:
    node.name = node.output[0]
for name, channels in (("w", 4), ("v", 1), ("u", 2)):
    values = random.normal(size=(4, channels, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, name))
onnx.checker.check_model(model, full_check=True)
simulation = aimet_onnx.QuantizationSimModel(model, quant_scheme="min_max")
found = [simulation.qc_quantize_op_dict[name].enabled for name in ("whole", "depthwise", "halves")]
print(f"quantized behind the Conv: group 1 {found[0]}, group 4 (depthwise) {found[1]}, group 2 {found[2]}", flush=True)
sys.exit(found != [False, True, False])
PYTHON
