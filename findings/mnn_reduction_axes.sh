#!/usr/bin/env bash
# Versions: MNN 3.6.1 (its converter and its CPU), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python 3.11,
#        x86-64.
# Guess: a reduction of opset 18, whose axes are an input instead of an attribute, is read as ReduceMean and ReduceSum are,
#        or refused: opset 18 is what torch.onnx.export writes by default.
# Seen:  ReduceMean, ReduceSum, ReduceMax are right. ReduceL2, ReduceL1, ReduceSumSquare and ReduceLogSumExp do not have their
#        axes read and reduce over everything, the batch among it; keepdims still gives a shape that broadcasts. So
#        F.normalize (x / ReduceL2(x)) and ConvNeXt V2's response normalization divide by the norm of the whole batch. The
#        converter says "Converted Success!". In opset 17, where axes are an attribute, all are right.
# Output seen: "wrong: ReduceL2 18, ReduceL1 18, ReduceSumSquare 18, ReduceLogSumExp 18; x / ReduceL2(x): largest norm 1.0 became 0.3"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" >"$folder/log" <<'PYTHON'
import sys

import _tools
import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

folder = sys.argv[1]
x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 4, 3, 3)).astype(np.float32)


def answers(kind: str, opset: int, *, divide: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return what the standard's evaluator and MNN make of a reduction over the channels."""
    as_input = opset >= (13 if kind == "ReduceSum" else 18)
    axes = {} if as_input else {"axes": [1]}
    nodes = [helper.make_node(kind, ["x", "axes"] if as_input else ["x"], ["r"], keepdims=1, **axes)]
    if divide:
        nodes.append(helper.make_node("Div", ["x", "r"], ["y"]))
    name, shape = ("y", x.shape) if divide else ("r", (2, 1, 3, 3))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    constants = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])] if as_input else []
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{folder}/m.onnx")
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", f"{folder}/m.onnx", "--MNNModel", f"{folder}/m.mnn"])
    given = expr.const(x.ravel().tolist(), list(x.shape), expr.NCHW)
    got = nn.load_module_from_file(f"{folder}/m.mnn", ["x"], [name]).forward([given])
    got = expr.convert(got[0] if isinstance(got, (list, tuple)) else got, expr.NCHW)
    return ReferenceEvaluator(model).run(None, {"x": x})[0], np.array(got.read()).reshape(got.shape)


wrong = []
for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceL1", "ReduceSumSquare", "ReduceLogSumExp"):
    for opset in (17, 18):
        expected, got = answers(kind, opset)
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-3):
            wrong.append(f"{kind} {opset}")
norms = [float(np.sqrt((values.astype(np.float64) ** 2).sum(1)).max()) for values in answers("ReduceL2", 18, divide=True)]
print(f"found wrong: {', '.join(wrong)}; x / ReduceL2(x): largest norm {norms[0]:.1f} became {norms[1]:.1f}")
assert wrong == [f"Reduce{kind} 18" for kind in ("L2", "L1", "SumSquare", "LogSumExp")] and norms[1] < 0.5 < norms[0]
PYTHON
sed -n 's/^found //p' "$folder/log"
