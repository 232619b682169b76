#!/usr/bin/env bash
# Versions: onnxscript 0.7.2 (version_converter), onnx 1.23.2, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: onnxscript.version_converter.convert_version(model, 20) takes a ModelProto or an onnx_ir model, as its signature
#        says, and makes either of opset 20, or raises where it cannot.
# Seen:  a ModelProto gets the nodes of opset 20 and keeps saying 18: GridSample's mode "bilinear" is called "linear", which
#        opset 18 does not know, and no runtime opens the file. A file older than 18 is left as it is, and nothing is raised
#        or returned. The same network as an onnx_ir model is converted and runs.
# Output seen: "ModelProto: opset 18, mode linear, Fail; onnx_ir: opset 20, mode linear, runs; opset 12 to 20: still 12"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxscript import version_converter

picture = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
places = numpy_helper.from_array(np.random.default_rng(1).uniform(-1, 1, (1, 4, 4, 2)).astype(np.float32), "places")


def network(node: onnx.NodeProto, opset: int, constants: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", picture.shape), ("y", [1, 2, None, None]))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def told(model: onnx.ModelProto) -> str:
    """What the file says, and what ONNX Runtime makes of it."""
    mode = next(entry.s.decode() for entry in model.graph.node[0].attribute if entry.name == "mode")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outcome = "runs"
    except Exception as error:
        outcome = type(error).__name__
    return f"opset {model.opset_import[0].version}, mode {mode}, {outcome}"


sampler = helper.make_node("GridSample", ["x", "places"], ["y"], mode="bilinear")
proto = network(sampler, 18, (places,))
version_converter.convert_version(proto, 20)
graph = onnx_ir.from_proto(network(sampler, 18, (places,)))
version_converter.convert_version(graph, 20)
old = network(helper.make_node("Relu", ["x"], ["y"]), 12)
version_converter.convert_version(old, 20)
found = (told(proto), told(onnx_ir.to_proto(graph)), old.opset_import[0].version)
print(f"ModelProto: {found[0]}; onnx_ir: {found[1]}; opset 12 to 20: still {found[2]}")
assert found[0].startswith("opset 18, mode linear") and "runs" not in found[0], "the behaviour changed"
assert found[1] == "opset 20, mode linear, runs" and found[2] == 12, "the behaviour changed"
PYTHON
