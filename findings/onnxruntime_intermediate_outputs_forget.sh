#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.quantization, MinMax), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: extra_options CalibMaxIntermediateOutputs=4 ("maximum number of intermediate outputs before an intermediate range
#        is computed") bounds the memory of a calibration; the ranges are those of all images all the same.
# Seen:  what was collected is thrown away at every fourth image, without a range being computed. The ranges are those of
#        the images behind the last multiple of 4 alone, one picture of 17; with 16 there are none: "No data is collected".
# Output seen: "scale of 17 images: 0.1339 without, 0.0079 with 4 (the last image alone: 0.0079); 16 images: ValueError"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON' | tail -1
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 2, 2]) for n, c in (("x", 3), ("y", 4))]
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], "one", ends[:1], ends[1:], [weight])
path = f"{sys.argv[1]}/float.onnx"
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


class Images(CalibrationDataReader):
    """Pictures of one value each: the first is the largest."""

    def __init__(self, values: list[float]) -> None:
        self.images = iter([{"x": np.full((1, 3, 2, 2), value, np.float32)} for value in values])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


def scale(values: list[float], **options: int) -> float | str:
    """The step of the input."""
    out = f"{sys.argv[1]}/int8.onnx"
    more = {"ActivationSymmetric": True, **options}
    try:
        quantize_static(path, out, Images(values), activation_type=QuantType.QInt8, extra_options=more)
    except ValueError:
        return "ValueError"
    return round(float(numpy_helper.to_array({i.name: i for i in onnx.load(out).graph.initializer}["x_scale"])), 4)


values = [float(value) for value in range(17, 0, -1)]
plain, bounded = scale(values), scale(values, CalibMaxIntermediateOutputs=4)
alone, multiple = scale(values[-1:]), scale(values[:16], CalibMaxIntermediateOutputs=4)
print(f"scale of 17 images: {plain} without, {bounded} with 4 (the last image alone: {alone}); 16 images: {multiple}")
sys.exit(0 if bounded == alone < plain and multiple == "ValueError" else 1)
PYTHON
