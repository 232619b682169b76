#!/usr/bin/env bash
# Versions: MNN 3.6.1 (its converter, -f TFLITE, and its CPU), ai-edge-litert 2.3.0 (LiteRT) to compare with, flatbuffers
#        25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: MNN's converter reads an operator of a float TFLite file with its options, or refuses the file, as it does GELU, ELU,
#        L2_NORMALIZATION and LOG_SOFTMAX.
# Seen:  options are left unread. A pool with a fused ReLU (what TensorFlow's converter makes of pool and ReLU) has none,
#        SOFTMAX's beta is 1, MIRROR_PAD pads with zeros, RESIZE_NEAREST_NEIGHBOR knows neither half_pixel_centers nor
#        align_corners. Bilinear resizing has both right. Sizes are right and nothing warns.
# Output seen: "LiteRT and MNN: AVERAGE_POOL_2D with ReLU [0.0, 0.0, 0.5] and [-1.5, -0.5, 0.5], MAX_POOL_2D with ReLU [0.0, 0.0, 0.0] and [-2.0, -1.0, 0.0], SOFTMAX beta 0.5 [0.1, 0.17, 0.28, 0.46] and [0.03, 0.09, 0.24, 0.64], MIRROR_PAD [3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0] and [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0], nearest, half_pixel [2.0, 4.0] and [1.0, 3.0], bilinear, half_pixel [1.17, 2.5, 3.83] and [1.17, 2.5, 3.83], SOFTMAX beta 1 [0.03, 0.09, 0.24, 0.64] and [0.03, 0.09, 0.24, 0.64]"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' | sed -n 's/^found //p' || { tail -3 "$folder/log"; exit 1; }
import _tools  # the converter itself: the command mnnconvert installs packages
import flatbuffers
import MNN
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

RELU = 1


def network(name: str, options: object, x: np.ndarray, shape: list[int], numbers: np.ndarray | None) -> bytes:
    """One float operator, with a constant of whole numbers where it has one."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 3 if name.startswith("RESIZE") else 1
    sides = [("x", list(x.shape)), ("y", shape)] + ([] if numbers is None else [("numbers", list(numbers.shape))])
    model.buffers = [schema.BufferT(), schema.BufferT()]
    if numbers is not None:
        model.buffers[1].data = np.frombuffer(numbers.astype(np.int32).tobytes(), np.uint8)
    graph.tensors = []
    for label, size in sides:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = label, size, int(label == "numbers")
        tensor.type = schema.TensorType.INT32 if label == "numbers" else schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    layer.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    layer.builtinOptions = options
    layer.inputs, layer.outputs = [0] if numbers is None else [0, 2], [1]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [layer]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def answers(name: str, x: np.ndarray, shape: list[int], numbers: np.ndarray | None = None, **given: object) -> tuple[list, list]:
    words = {"MAX_POOL_2D": "Pool2D", "AVERAGE_POOL_2D": "Pool2D", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor"}
    kind = words.get(name) or "".join(part.capitalize() for part in name.split("_"))
    options = getattr(schema, f"{kind}OptionsT")()
    for key, value in given.items():
        setattr(options, key, value)
    file = network(name, options, x, shape, numbers)
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    with open("network.tflite", "wb") as written:
        written.write(file)
    _tools.mnnconvert(["mnnconvert", "-f", "TFLITE", "--modelFile", "network.tflite", "--MNNModel", "network.mnn"])
    net = MNN.Interpreter("network.mnn")
    session = net.createSession({})
    layout = (MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Tensorflow)
    net.getSessionInput(session).copyFrom(MNN.Tensor(x.shape, layout[0], x.copy(), layout[1]))
    net.runSession(session)
    output = net.getSessionOutput(session)
    host = MNN.Tensor(tuple(output.getShape()), layout[0], np.zeros(output.getShape(), np.float32), layout[1])
    output.copyToHostTensor(host)
    return np.round(expected.astype(float).ravel(), 2).tolist(), np.round(np.array(host.getData()).ravel(), 2).tolist()


row = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4, 1)
window = {"padding": 1, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 1, "fusedActivationFunction": RELU}
around = np.array([[0, 0], [0, 0], [2, 2], [0, 0]])
centers = {"alignCorners": False, "halfPixelCenters": True}
found = {
    "AVERAGE_POOL_2D with ReLU": answers("AVERAGE_POOL_2D", row - 3, [1, 1, 3, 1], **window),
    "MAX_POOL_2D with ReLU": answers("MAX_POOL_2D", row - 4, [1, 1, 3, 1], **window),
    "SOFTMAX beta 0.5": answers("SOFTMAX", row.reshape(1, 4), [1, 4], beta=0.5),
    "MIRROR_PAD": answers("MIRROR_PAD", row, [1, 1, 8, 1], around, mode=0),
    "nearest, half_pixel": answers("RESIZE_NEAREST_NEIGHBOR", row, [1, 1, 2, 1], np.array([1, 2]), **centers),
    "bilinear, half_pixel": answers("RESIZE_BILINEAR", row, [1, 1, 3, 1], np.array([1, 3]), **centers),
    "SOFTMAX beta 1": answers("SOFTMAX", row.reshape(1, 4), [1, 4], beta=1.0),
}
print("found LiteRT and MNN:", ", ".join(f"{name} {lite} and {mnn}" for name, (lite, mnn) in found.items()))
same = [bool(np.allclose(lite, mnn, atol=0.011)) for lite, mnn in found.values()]
assert same == [False] * 5 + [True] * 2, "the behaviour changed"
PYTHON
