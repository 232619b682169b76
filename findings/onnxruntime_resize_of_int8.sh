#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU, without optimizations), onnx 1.23.2 (its reference evaluator beside it), NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: Resize of an INT8 or UINT8 tensor (a picture as it was decoded, a map between two integer layers) gives the level nearest to
#        what it gives of the same numbers as float32, as onnx's reference evaluator does; what is left to a type is its own
#        range, -128 to 127.
# Seen:  with antialias an INT8 result is cut at 0, as if it were UINT8: every negative level becomes 0, and a cubic overshoot
#        above 127 becomes negative. UINT8 is right to a level (cubic overshoots are cut after each axis, as Pillow does).
#        Without antialias both drop the fraction: UINT8 is half a level darker, INT8 nearer to 0. Float32 agrees with the
#        reference. Between Q/DQ pairs a session leaves linear and cubic Resize in float.
# Output seen: "from float32, of levels: INT8 linear antialias -0.5 to 128.0, INT8 cubic antialias -255.0 to 150.0; INT8 linear -0.9 to 0.9; UINT8 linear -0.9 to 0.0, mean -0.46; reference -0.5 to 0.5"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

picture = np.random.default_rng(0).integers(0, 256, (1, 3, 20, 24))
settings = ort.SessionOptions()
settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def network(kind: int, options: dict[str, object]) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info("x", kind, [1, 3, 20, 24]),
        helper.make_tensor_value_info("y", kind, [1, 3, 40, 48]),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **options)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(kind: int, x: np.ndarray, options: dict[str, object]) -> np.ndarray:
    model = network(kind, options).SerializeToString()
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def off(dtype: type, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much ONNX Runtime's levels, and the reference's, are above those of float32, cut to the type's range."""
    span = np.iinfo(dtype)
    x = (picture + span.min).astype(dtype)
    exact = run(TensorProto.FLOAT, x.astype(np.float32), options)
    (same,) = ReferenceEvaluator(network(TensorProto.FLOAT, options)).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(same, exact, atol=1e-3)
    exact = exact.clip(span.min, span.max)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    (reference,) = ReferenceEvaluator(network(kind, options)).run(None, {"x": x})
    return run(kind, x, options) - exact, reference - exact


found = {
    "INT8 linear antialias": off(np.int8, mode="linear", antialias=1),
    "INT8 cubic antialias": off(np.int8, mode="cubic", antialias=1),
    "INT8 linear": off(np.int8, mode="linear"),
    "UINT8 linear": off(np.uint8, mode="linear"),
}
told = [f"{name} {there.min():.1f} to {there.max():.1f}" for name, (there, _) in found.items()]
mean = float(found["UINT8 linear"][0].mean())
bound = max(float(np.abs(reference).max()) for _, reference in found.values())
right = off(np.uint8, mode="linear", antialias=1)[0]
print(f"from float32, of levels: {', '.join(told[:2])}; {'; '.join(told[2:])}, mean {mean:.2f}; reference -{bound:.1f} to {bound:.1f}")
low, high = found["INT8 linear antialias"][0], found["INT8 cubic antialias"][0]
assert low.max() > 100 and low.min() > -1 and high.min() < -200, "the behaviour changed"
assert mean < -0.4 and bound < 0.51 and np.abs(right).max() < 1.1, "the behaviour changed"
PYTHON
