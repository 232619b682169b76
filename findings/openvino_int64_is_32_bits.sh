#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a graph whose input and output are INT64 (picture numbers, time stamps beside the logits) computes in INT64, or is
#        refused: the compiled model says int64 of both, and INFERENCE_PRECISION_HINT speaks of float layers only.
# Seen:  it computes in INT32 and says nothing. Even Identity of 3,000,000,000 gives -1,294,967,296, as int64; a float32 of
#        3e9, cast to INT64, gives -2,147,483,648. DOUBLE is computed in float32 in the same way: 1e300 + 1e300 is 3.4e38.
# Output seen: "Identity -1294967296, Add 1705032704, Cast -2147483648, DOUBLE 3.4028234663852886e+38"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

core = openvino.Core()


def answers(node, kinds, value):
    """OpenVINO's answer and the reference evaluator's, both of the type that the compiled model promises."""
    ends = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in zip("xy", kinds, strict=True)]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    given = np.array([value], helper.tensor_dtype_to_np_dtype(kinds[0]))
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU")
    (expected,) = ReferenceEvaluator(model).run(None, {"x": given})
    got = compiled(given)[0]
    assert got.dtype == expected.dtype == compiled.output(0).get_element_type().to_dtype()
    return got.item(), expected.item()


LONG, DOUBLE = (TensorProto.INT64,) * 2, (TensorProto.DOUBLE,) * 2
found = {
    "Identity": answers(helper.make_node("Identity", ["x"], ["y"]), LONG, 3_000_000_000),
    "Add": answers(helper.make_node("Add", ["x", "x"], ["y"]), LONG, 3_000_000_000),
    "Cast": answers(
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64), (TensorProto.FLOAT, TensorProto.INT64), 3e9
    ),
    "DOUBLE": answers(helper.make_node("Add", ["x", "x"], ["y"]), DOUBLE, 1e300),
}
print(", ".join(f"{name} {got}" for name, (got, _) in found.items()))
assert [expected for _, expected in found.values()] == [3_000_000_000, 6_000_000_000, 3_000_000_000, 2e300]
assert [found[name][0] for name in ("Identity", "Add", "Cast")] == [-1_294_967_296, 1_705_032_704, -(2**31)]
assert found["DOUBLE"][0] < 3.5e38
PYTHON
