#!/usr/bin/env bash
# AMD Quark 0.13, ONNX, CPU: activation ranges by mean squared error.
#
# Guess: Int8Spec(scale_type=ScaleType.Float32, calibration_method=CalibMethod.MinMSE) gives float scales of least mean
# squared error, at or below MinMax's: of Quark's methods the most accurate one, as in other quantizers.
# Seen: every activation's scale is a power of two, as if ScaleType.PowerOf2 had been asked for, up to 1.6 times MinMax's.
# A warning says "You must use one of (MinMax, Percentile, Entropy, LayerwisePercentile) when using ScaleType.Float32;
# otherwise, deployment cannot proceed", then it proceeds. EfficientNet-Lite0 loses 6 dB by it (9.9 against 16.2).
#
# Output seen, 2026-11-29:
#   MinMax [0.0307, 0.1564, 0.6249]
#   Percentile [0.0307, 0.1564, 0.6248]
#   MinMSE [0.0312, 0.25, 1.0]
#
# Exits with 1 if that changes. Needs pip and Python 3.11; Quark imports torch, whose download is the large part. With
# PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check \
        amd-quark==0.13 onnx==1.22.0 onnxruntime==1.28.0 numpy==2.4.6 torch==2.14.1
fi
cd "$folder"
"$python" - 2>"$folder/log" <<'PYTHON' | grep '^M\|^P'
import sys
from importlib.metadata import version

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer, QConfig
from quark.onnx.quantization.config.spec import CalibMethod, Int8Spec, QLayerConfig, ScaleType

assert version("amd-quark") == "0.13", version("amd-quark")
random = np.random.default_rng(0)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
net (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) { a = Conv (x, w) r = Relu (a) y = Conv (r, v) }""")
for node, name in zip(model.graph.node, ("first", "relu", "second")):
    node.name = name
for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 3, 3))):
    model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
onnx.checker.check_model(model, full_check=True)
images = [random.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(8)]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.reset_iter()

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"x": image}

    def reset_iter(self):
        self.images = iter(images)


found = {}
for method in ("MinMax", "Percentile", "MinMSE"):
    layer = QLayerConfig(
        input_tensors=Int8Spec(scale_type=ScaleType.Float32, calibration_method=CalibMethod[method]),
        weight=Int8Spec(scale_type=ScaleType.Float32, calibration_method=CalibMethod.MinMax),
    )
    quantized = ModelQuantizer(QConfig(layer)).quantize_model(model, None, Reader())
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    nodes = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    found[method] = [float(stored[node.input[1]]) for node in nodes]
    print(method, [round(scale, 4) for scale in found[method]], flush=True)
powers = {method: np.all(np.log2(scales) % 1 == 0) for method, scales in found.items()}
sys.exit(powers != {"MinMax": False, "Percentile": False, "MinMSE": True})
PYTHON
