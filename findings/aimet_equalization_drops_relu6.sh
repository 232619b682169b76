#!/usr/bin/env bash
# AIMET 2.42.0 (aimet-onnx): cross-layer equalization of a network with ReLU6.
#
# Guess: equalization rescales weights across layers so that the float model answers as before (Nagel et al. 2019, the paper
# it follows); where a ReLU6 stands between two layers it is left alone.
# Seen: where the Clip's bounds are outputs of Constant nodes (torch's older exporter writes them so) equalize_model makes
# it a Relu first, in place and without a word on return: the float model answers otherwise before anything is quantized.
# Where the very same bounds are initializers it finds no minimum of zero, the Clip stays, and nothing changes. So how a
# file spells its constants decides what AIMET's equalization makes of the network.
#
# Output seen, 2026-11-29:
#   Clip, initializers: Conv Clip Conv -> Conv Clip Conv, float answers differ by 0.0 %
#   Clip, Constant nodes: Conv Clip Conv -> Conv Relu Conv, float answers differ by 64.8 %
#   Relu: Conv Relu Conv -> Conv Relu Conv, float answers differ by 0.0 %
#
# Exits with 1 if that changes. Needs pip and Python 3.11; AIMET imports torch, whose download is the large part. With
# PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check \
        aimet-onnx==2.42.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 torch==2.14.1
fi
"$python" - 2>/dev/null <<'PYTHON' | grep '^Clip\|^Relu'
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from aimet_onnx.cross_layer_equalization import equalize_model
from onnx import numpy_helper

assert version("aimet-onnx") == "2.42.0", version("aimet-onnx")
images = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)


STORED = "<float low = {0}, float high = {6}>"
NODES = "low = Constant <value = float {0}> () high = Constant <value = float {6}> ()"


def network(rectifier: str, stored: str = "", nodes: str = "") -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {stored} {{
  {nodes}
  a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w, p)
  b = {rectifier}
  y = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (b, v, q)
}}""")
    random = np.random.default_rng(0)
    for node in model.graph.node:
        node.name = node.output[0]
    for name, shape in (("w", (6, 3, 3, 3)), ("p", (6,)), ("v", (4, 6, 3, 3)), ("q", (4,))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def kinds(model: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in model.graph.node if node.op_type != "Constant")


CLIP = "Clip (a, low, high)"
CASES = {"Clip, initializers": (CLIP, STORED, ""), "Clip, Constant nodes": (CLIP, "", NODES), "Relu": ("Relu (a)",)}
found = {}
for name, words in CASES.items():
    model = network(*words)
    before, kinds_before = answers(model), kinds(model)
    equalize_model(model)
    found[name] = float(np.abs(answers(model) - before).max() / np.abs(before).max())
    print(f"{name}: {kinds_before} -> {kinds(model)}, float answers differ by {100 * found[name]:.1f} %", flush=True)
changed = {name: difference > 0.01 for name, difference in found.items()}
sys.exit(changed != {"Clip, initializers": False, "Clip, Constant nodes": True, "Relu": False})
PYTHON
