#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its reference evaluator beside it), ml_dtypes 0.6.0, NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: Cast and QuantizeLinear to FLOAT8E5M2 without saturation follow the standard's table: what rounds to more than 57344
#        is Inf of its sign, as in FP16, and NaN stays what only NaN gives.
# Seen:  between 61440, from where on values round up, and 65536 they are NaN, of either sign; below they are 57344, from 65536
#        on Inf. So the smallest overflow of a scaled tensor is NaN, a larger one Inf. With saturation (the default) all are 57344.
# Output seen: "61439 57344, 61440 nan, 65535 nan, 65536 inf, 3e+38 inf, -61440 nan; reference and ml_dtypes 57344 inf inf inf inf -inf; QuantizeLinear as Cast; saturated 57344"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.array([61439, 61440, 65535, 65536, 3e38, -61440], np.float32)
kind = TensorProto.FLOAT8E5M2


def network(quantize: bool, saturate: int) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.float32(1), "scale"), helper.make_tensor("zero", kind, [], [0.0])] * quantize
    if quantize:
        first = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"], saturate=saturate)
    else:
        first = helper.make_node("Cast", ["x"], ["levels"], to=kind, saturate=saturate)
    nodes = [first, helper.make_node("Cast", ["levels"], ["y"], to=TensorProto.FLOAT)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def answer(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


cast, quantized, saturated = answer(network(False, 0)), answer(network(True, 0)), answer(network(False, 1))
(reference,) = ReferenceEvaluator(network(False, 0)).run(None, {"x": x})
assert np.array_equal(reference, x.astype(ml_dtypes.float8_e5m2).astype(np.float32))
assert np.array_equal(cast, quantized, equal_nan=True) and set(np.abs(saturated)) == {57344}
told = ", ".join(f"{given:g} {value:g}" for given, value in zip(x, cast))
print(
    f"{told}; reference and ml_dtypes {' '.join(f'{value:g}' for value in reference)}; "
    f"QuantizeLinear as Cast; saturated {saturated[0]:g}"
)
expected = np.array([57344, np.nan, np.nan, np.inf, np.inf, np.nan], np.float32)
assert np.array_equal(cast, expected, equal_nan=True) and not np.isnan(reference).any(), "the behaviour changed"
PYTHON
