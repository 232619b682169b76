#!/usr/bin/env bash
# Versions: qonnx 1.0.0, onnx 1.23.2, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: QCDQToQuant, "exact" by purpose, makes one Quant node of QuantizeLinear, Clip, DequantizeLinear where the Clip's
#        bounds are those of some number of bits (-8 to 7 is 4), and leaves what no Quant can say, or refuses it.
# Seen:  the Clip is dropped whatever it says, and its bounds alone give the number of bits. -8 to 7, -7 to 7 (narrow), 0 to
#        15 of UINT8 are right. 0 to 127 on INT8, a ReLU on the levels, becomes a signed Quant of 7 bits: values below 0
#        pass, those above 63 are cut. 0 to 96 (a ReLU6) becomes the same, -5 to 6 becomes -8 to 7. Nothing warns.
# Output seen: "exact: -8 to 7, -7 to 7, -127 to 127, 0 to 15 of uint8; levels from -90 to 110 under a Clip of 0 to 127 become -64 to 63, of 0 to 96 -64 to 63, of -5 to 6 -8 to 7"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check qonnx==1.0.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 setuptools==65.5.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.qcdq_to_qonnx import QCDQToQuant

LEVELS = np.arange(-90, 111, dtype=np.float32)


def both(low: int, high: int, dtype: type = np.int8) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime makes of the levels, and the Quant node."""
    constants = {"scale": np.float32(1), "zero": dtype(0), "low": dtype(low), "high": dtype(high)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("Clip", ["q", "low", "high"], ["cut"]),
        helper.make_node("DequantizeLinear", ["cut", "scale", "zero"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(LEVELS)]) for name in "xy")
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (before,) = session.run(None, {"x": LEVELS})
    converted = ModelWrapper(model).transform(InferShapes()).transform(QCDQToQuant()).transform(InferShapes())
    assert [node.op_type for node in converted.graph.node] == ["Quant"]
    return before, execute_onnx(converted, {"x": LEVELS})["y"]


def ends(values: np.ndarray) -> str:
    return f"{values.min():.0f} to {values.max():.0f}"


exact = [f"{low} to {high}" for low, high in ((-8, 7), (-7, 7), (-127, 127)) if np.array_equal(*both(low, high))]
exact += ["0 to 15 of uint8"] if np.array_equal(*both(0, 15, np.uint8)) else []
now = {bounds: ends(both(*bounds)[1]) for bounds in ((0, 127), (0, 96), (-5, 6))}
print(
    f"exact: {', '.join(exact)}; levels from -90 to 110 under a Clip of 0 to 127 become {now[0, 127]}, "
    f"of 0 to 96 {now[0, 96]}, of -5 to 6 {now[-5, 6]}"
)
assert all(ends(both(*bounds)[0]) == f"{bounds[0]} to {min(bounds[1], 110)}" for bounds in now)
assert len(exact) == 4 and list(now.values()) == ["-64 to 63", "-64 to 63", "-8 to 7"], "the behaviour changed"
PYTHON
