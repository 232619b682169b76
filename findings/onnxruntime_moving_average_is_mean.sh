#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.quantization), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: extra_options CalibMovingAverage and CalibMovingAverageConstant ("Constant smoothing factor to use when computing
#        the moving average", default 0.01) of quantize_static give an exponential moving average of the batches' ranges, as
#        PyTorch's observer of that name and constant does: the constant and the order of the images decide.
# Seen:  neither does. The range is the plain mean of the batches' extremes whatever the constant, so that at batch size 1 it
#        ends at the average picture's largest value, and everything brighter than average is cut off. Nothing warns.
# Output seen: "largest of 1, 2, 3, 4, 100: MinMax 100.0; moving average of constant 0.01 22.0, 0.5 22.0, 0.99 22.0, reversed 22.0; exponential 2.05, 51.56, 99.04"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" 2>/dev/null <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

folder = Path(sys.argv[1])
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in "xy"]
weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])], "g", ends[:1], ends[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, folder / "float.onnx")


class Levels(CalibrationDataReader):
    def __init__(self, levels: list[int]) -> None:
        self.batches = iter([{"x": np.full((1, 1, 2, 2), level, np.float32)} for level in levels])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def largest(levels: list[int], **options: object) -> float:
    """Return the largest value of x that the quantized file holds."""
    reader = Levels(levels)
    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", reader, activation_type=QuantType.QUInt8, extra_options=options
    )
    tensors = onnx.load(folder / "int8.onnx").graph.initializer
    (scale,) = (numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == "x_scale")
    return round(float(scale) * 255, 2)


def exponential(levels: list[int], constant: float) -> float:
    value = float(levels[0])
    for level in levels[1:]:
        value += constant * (level - value)
    return round(value, 2)


levels, constants = [1, 2, 3, 4, 100], (0.01, 0.5, 0.99)
moving = [largest(levels, CalibMovingAverage=True, CalibMovingAverageConstant=constant) for constant in constants]
turned = largest(levels[::-1], CalibMovingAverage=True, CalibMovingAverageConstant=0.01)
expected = [exponential(levels, constant) for constant in constants]
told = ", ".join(f"{constant} {value}" for constant, value in zip(constants, moving, strict=True))
print(
    f"largest of 1, 2, 3, 4, 100: MinMax {largest(levels)}; moving average of constant {told}, reversed {turned}; "
    f"exponential {', '.join(map(str, expected))}"
)
assert moving == [22.0] * 3 and turned == 22.0, "the behaviour changed"
PYTHON
