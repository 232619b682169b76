#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnxruntime 1.32.0, onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: Resize of opset 18 with antialias=1 (how a network brings its own preprocessing, as Pillow shrinks pictures) is
#        computed as the standard says, or refused; exclude_outside of a cubic one likewise.
# Seen:  it is computed as if antialias were 0, linear and cubic. The model that was read says antialias True, the CPU does
#        not hear it. A picture shrunk to a third is sampled instead of averaged, up to 0.34 of its range off (cubic 0.55).
#        exclude_outside=1 is not heard either. Nothing warns. Without both the answers are right.
# Output seen: "antialias: linear 0.5 0.205, linear 0.3 0.340, cubic 0.5 0.396, cubic 0.3 0.552; exclude_outside: cubic 0.5 0.052; neither: 0.000; the model read says antialias True"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).random((1, 1, 32, 32)).astype(np.float32)
core = openvino.Core()
read = []


def off(mode: str, scale: float, **options: int) -> float:
    """Return OpenVINO's largest |difference| from ONNX Runtime, which the standard's evaluator agrees with."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, **options)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "h", "w"]))
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, scale, scale])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(expected, ReferenceEvaluator(model).run(None, {"x": x})[0], atol=1e-5)
    network = core.read_model(io.BytesIO(model.SerializeToString()))
    read.extend(node.get_attributes()["antialias"] for node in network.get_ops() if node.get_type_name() == "Interpolate")
    got = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    return float(np.abs(got - expected).max())


found = {f"{mode} {scale}": off(mode, scale, antialias=1) for mode in ("linear", "cubic") for scale in (0.5, 0.3)}
heard = all(read)
outside = off("cubic", 0.5, exclude_outside=1)
plain = max(off(mode, 0.5) for mode in ("linear", "cubic"))
told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
print(f"antialias: {told}; exclude_outside: cubic 0.5 {outside:.3f}; neither: {plain:.3f}; the model read says antialias {heard}")
assert min(found.values()) > 0.1 and outside > 0.01 and plain < 1e-5 and heard, "the behaviour changed"
PYTHON
