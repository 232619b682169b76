#!/usr/bin/env bash
# NNCF 3.4.0 on ONNX models: `signedness_to_force` of an activation.
#
# Guess: QuantizationParameters documents `signedness_to_force` ("whether to force the weights or activations to be signed
# (True), unsigned (False)"), so nncf.quantize with it gives the INT8 activations that TensorRT takes.
# Seen: every value but None is refused for activations, for every target device: the constraint is compared with "=="
# against spaces of the hardware that say None, any signedness. The message blames "HW config type 'CPU'" also where the
# device asked for was a GPU or an NPU. Without it a tensor that is never negative becomes UINT8, which TensorRT refuses.
#
# Output seen, 2026-11-29:
#   True ANY: ValueError, HW config type 'ANY'
#   True CPU: ValueError, HW config type 'CPU'
#   True GPU: ValueError, HW config type 'CPU'
#   True NPU: ValueError, HW config type 'CPU'
#   False ANY: ValueError, HW config type 'ANY'
#   None ANY: int8, uint8
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 150 MB of downloads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nncf==3.4.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import re
import sys

import nncf
import numpy as np
import onnx
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
from onnx import numpy_helper

random = np.random.default_rng(0)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
net (float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) { a = Conv (x, w) r = Relu (a) y = Conv (r, v) }""")
for node, name in zip(model.graph.node, ("first", "relu", "second")):
    node.name = name
for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 3, 3))):
    model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
onnx.checker.check_model(model, full_check=True)
images = [random.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(8)]


def types(signed: bool | None, device: nncf.TargetDevice) -> str:
    """The types of the quantized activations, or the refusal."""
    parameters = AdvancedQuantizationParameters(
        activations_quantization_params=QuantizationParameters(signedness_to_force=signed)
    )
    try:
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: {"x": image}),
            target_device=device,
            subset_size=8,
            advanced_parameters=parameters,
        )
    except ValueError as err:
        return "ValueError, " + re.search("HW config type '[A-Z]+'", str(err)).group()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    nodes = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    return ", ".join(stored[node.input[2]].dtype.name for node in nodes)


devices = nncf.TargetDevice
asked = [(True, devices.ANY), (True, devices.CPU), (True, devices.GPU), (True, devices.NPU), (False, devices.ANY)]
found = [types(*each) for each in (*asked, (None, devices.ANY))]
for (signed, device), answer in zip((*asked, (None, devices.ANY)), found):
    print(f"{signed} {device.value}: {answer}")
expected = [f"ValueError, HW config type '{name}'" for name in ("ANY", "CPU", "CPU", "CPU", "ANY")]
sys.exit(found != [*expected, "int8, uint8"])
PYTHON
