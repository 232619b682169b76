#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.quantization), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: CalibTensorRangeSymmetric=True ("the final range of tensor during calibration will be explicitly set to symmetric
#        to central point 0") costs a bit behind a ReLU and is otherwise harmless; a way to zero points of 0 for TensorRT.
# Seen:  every Relu is taken out of the network, as is done where a quantizer that begins at 0 cuts instead; but this one
#        begins at -amax and cuts nothing. Valid file, opens, answers as a network without activations. Nothing warns.
#        CalibrationMethod.Distribution does the same without any option. (ActivationSymmetric=True keeps the Relu.)
# Output seen: "Relu kept and SQNR: default 0 34 dB, CalibTensorRangeSymmetric 0 -5 dB, Distribution 0 -5 dB, ActivationSymmetric 2 32 dB"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON' | tail -1
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

seed = np.random.default_rng(0)
shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (4, 8, 3, 3)}
weights = [numpy_helper.from_array((seed.normal(size=s) * 0.2).astype(np.float32), n) for n, s in shapes.items()]
nodes = [
    helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1"),
    helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
    helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"),
    helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
    helper.make_node("Conv", ["r2", "w3"], ["y"], "conv3"),
]
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, None, None]) for n, c in (("x", 3), ("y", 4))]
graph = helper.make_graph(nodes, "three", ends[:1], ends[1:], weights)
path = f"{sys.argv[1]}/float.onnx"
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
pictures = list(seed.normal(size=(16, 1, 3, 16, 16)).astype(np.float32))


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.images = iter([{"x": image} for image in pictures])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


def answers(file: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"x": image})[0] for image in pictures])


def quantized(**options: object) -> tuple[int, float]:
    """How many Relu are left, and the SQNR in dB."""
    out = f"{sys.argv[1]}/int8.onnx"
    quantize_static(path, out, Images(), **options)
    wanted = answers(path)
    noise = wanted - answers(out)
    kept = sum(node.op_type == "Relu" for node in onnx.load(out).graph.node)
    return kept, float(10 * np.log10(np.square(wanted).mean() / np.square(noise).mean()))


found = {
    "default": quantized(),
    "CalibTensorRangeSymmetric": quantized(extra_options={"CalibTensorRangeSymmetric": True}),
    "Distribution": quantized(calibrate_method=CalibrationMethod.Distribution),
    "ActivationSymmetric": quantized(extra_options={"ActivationSymmetric": True}),
}
print("Relu kept and SQNR: " + ", ".join(f"{name} {kept} {sqnr:.0f} dB" for name, (kept, sqnr) in found.items()))
lost = [found[name] for name in ("CalibTensorRangeSymmetric", "Distribution")]
right = found["default"][1] > 30 and found["ActivationSymmetric"][1] > 30 and found["ActivationSymmetric"][0] == 2
sys.exit(0 if right and all(kept == 0 and sqnr < 5 for kept, sqnr in lost) else 1)
PYTHON
