#!/usr/bin/env bash
# Versions: polygraphy 0.53.6, onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: `polygraphy run float.onnx int8.onnx --onnxrt --onnxrt`, or Comparator with its own data, shows whether two files
#        agree: random data cover what the input's type can hold, so a uint8 input gets pixels from 0 to 255.
# Seen:  whatever the type is, values are drawn from 0 to 1; for uint8 (a network with its normalization inside) that is a
#        picture of zeros and ones, black. A file whose input scale is 127 times too small, so that every pixel above 1 is
#        cut off, passes the comparison. With val_range=(0, 255) it fails.
# Output seen: "pixels 0 to 1: passes; with val_range 0 to 255: differs, by 26092.0 at most"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check polygraphy==0.53.6 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | tail -1
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, CompareFunc, DataLoader
from polygraphy.logger import G_LOGGER

G_LOGGER.module_severity = G_LOGGER.CRITICAL


def network(scale: float | None) -> bytes:
    """A uint8 picture, quantized or not, through a convolution."""
    values = {"w": np.ones((1, 3, 8, 8), np.float32), "s": np.float32(scale or 1), "z": np.int8(0)}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    if scale:
        nodes += [helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"])]
        nodes += [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"])]
    nodes += [helper.make_node("Conv", ["d" if scale else "f", "w"], ["y"])]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


runners = [OnnxrtRunner(SessionFromOnnx(network(scale)), name=name) for name, scale in (("float", None), ("INT8", 1 / 127))]


def compared(**options: object) -> tuple[bool, list[float], float]:
    """Whether they agree, the values of the picture from and to, and the largest difference."""
    loader = DataLoader(iterations=1, **options)
    results = Comparator.run(runners, data_loader=loader)
    passed = bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple(atol=0.01, rtol=0.01)))
    one, other = (float(results[name][0]["y"].max()) for name in ("float", "INT8"))
    picture = next(iter(loader))["x"]
    return passed, [int(picture.min()), int(picture.max())], abs(one - other)


default, wide = compared(), compared(val_range=(0, 255))
print(
    f"pixels {default[1][0]} to {default[1][1]}: {'passes' if default[0] else 'differs'}; "
    f"with val_range 0 to 255: {'passes' if wide[0] else 'differs'}, by {wide[2]:.1f} at most"
)
sys.exit(0 if default[0] and default[1] == [0, 1] and not wide[0] else 1)
PYTHON
