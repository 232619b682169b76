#!/usr/bin/env bash
# Versions: onnx2keras 0.0.25, tensorflow 2.21.0, keras 3.15.1, onnx 1.23.2, onnxruntime 1.32.0 (CPU), NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: onnx2keras brings the borders of an ONNX file to Keras as they are there: the padding of a MaxPool is minus infinity,
#        an AveragePool divides by what lies on the picture unless it counts its padding, a Pad of mode "edge" repeats the
#        last pixel, auto_pad SAME_UPPER of a Conv is padding. What it cannot say, it refuses, as a Pad by another number.
# Seen:  MaxPool pads with zeros and AveragePool counts its padding, unless their stride is 1 and the window symmetric: a stem
#        without ReLU before its pool gets 0 for negative values along the border, and averages there are a third too
#        small. (Its log speaks of ZeroPadding2D "to fix shapes" for every such pool, right or wrong.) Pad "edge" mirrors
#        instead of repeating, auto_pad is not read at all: a Conv of SAME_UPPER gives 4 x 4 for 5 x 5. No word of these.
# Output seen: "MaxPool off by 5.5 of 5.5, AveragePool off by 0.46 of 1.2, Pad edge off by 4 of 3.8, Conv SAME_UPPER 4 x 4 for 5 x 5;
#        with stride 1: MaxPool by 0.0, AveragePool by 0.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx2keras==0.0.25 tensorflow==2.21.0 keras==3.15.1 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx2keras import onnx_to_keras

rng = np.random.default_rng(0)
x = rng.normal(size=(1, 4, 9, 9)).astype(np.float32)


def keras_and_file(kind: str, picture: np.ndarray, constants: dict, **attributes: object) -> tuple[np.ndarray, np.ndarray]:
    node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(onnx_to_keras(model, ["x"], verbose=False)(picture)), session.run(None, {"x": picture})[0]


def off(*both: np.ndarray) -> tuple[float, float]:
    return float(np.abs(both[0] - both[1]).max()), float(np.abs(both[1]).max())


window = {"kernel_shape": [3, 3], "pads": [1] * 4}
seen = {
    "MaxPool": off(*keras_and_file("MaxPool", x - 5, {}, **window, strides=[2, 2])),
    "AveragePool": off(*keras_and_file("AveragePool", x, {}, **window, strides=[2, 2])),
    "Pad edge": off(*keras_and_file("Pad", x, {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, mode="edge")),
}
weight = rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
conv = keras_and_file("Conv", x, {"w": weight}, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
right = {
    "MaxPool": off(*keras_and_file("MaxPool", x - 5, {}, **window, strides=[1, 1]))[0],
    "AveragePool": off(*keras_and_file("AveragePool", x, {}, **window, strides=[1, 1]))[0],
}
print(
    f"{', '.join(f'{name} off by {error:.2g} of {size:.2g}' for name, (error, size) in seen.items())}, Conv SAME_UPPER "
    f"{' x '.join(map(str, conv[0].shape[2:]))} for {' x '.join(map(str, conv[1].shape[2:]))}; with stride 1: "
    f"{', '.join(f'{name} by {error:.1f}' for name, error in right.items())}"
)
assert all(error > 0.2 * size for error, size in seen.values()) and conv[0].shape != conv[1].shape, "the behaviour changed"
assert max(right.values()) < 1e-4, "what was right is not any more"
PYTHON
