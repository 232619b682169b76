#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (its TensorFlow Lite front end, CPU), ai-edge-litert 2.3.0 (LiteRT) to compare with, flatbuffers
#        25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: an INT8 TFLite file that OpenVINO reads answers as in LiteRT, to one or two levels; a maximum over rows and columns
#        takes the largest level, whatever the zero point is.
# Seen:  of some eighty operators of INT8 that holds, but for two. REDUCE_MAX is -1 at every place as soon as the zero point
#        is not 0 (with 0 it is right, as are REDUCE_MIN, MEAN and MAX_POOL_2D): a network that ends in a global maximum
#        answers the same for every picture. RESIZE_NEAREST_NEIGHBOR with half_pixel_centers takes the pixel before where a
#        new pixel's center lies on the border of two: a map of half the size holds pixels 0, 2, 4 instead of 1, 3, 5, in
#        float, too. Nothing is said.
# Output seen: "LiteRT and OpenVINO: REDUCE_MAX -5 [120, 127] and [-1, -1], REDUCE_MAX -128 [120, 127] and [-1, -1], REDUCE_MAX 0 [120, 127] and [120, 127], REDUCE_MIN -5 [-127, -128] and [-127, -128], MEAN -5 [1, 5] and [1, 5], RESIZE_NEAREST_NEIGHBOR float [1, 3, 5] and [0, 2, 4], RESIZE_NEAREST_NEIGHBOR INT8 [1, 3, 5] and [0, 2, 4]"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import flatbuffers
import numpy as np
import openvino
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

levels = np.random.default_rng(0).integers(-128, 128, (1, 6, 6, 2)).astype(np.int8)
places = np.arange(6, dtype=np.int8)[None, :, None, None] * np.ones((1, 6, 6, 2), np.int8)


def network(name: str, options: object, numbers: list[int], shape: list[int], zero_point: int | None) -> bytes:
    """One operator with a constant of numbers; of INT8 with this zero point, or of float32 without one."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1 if zero_point is None else 2
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(np.array(numbers, np.int32).tobytes(), np.uint8)
    graph.tensors = []
    for label, size in (("x", list(levels.shape)), ("numbers", [len(numbers)]), ("y", shape)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = label, size, int(label == "numbers"), schema.TensorType.INT32
        if label != "numbers":
            tensor.type = schema.TensorType.FLOAT32 if zero_point is None else schema.TensorType.INT8
        if label != "numbers" and zero_point is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [0.05], [zero_point]
        graph.tensors.append(tensor)
    layer.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    layer.builtinOptions = options
    layer.inputs, layer.outputs, graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [0], [2], [layer]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def answers(file: bytes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    with open("network.tflite", "wb") as written:
        written.write(file)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model("network.tflite"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), compiled(x)[0]


found = {}
for name, zero_point in (("REDUCE_MAX", -5), ("REDUCE_MAX", -128), ("REDUCE_MAX", 0), ("REDUCE_MIN", -5), ("MEAN", -5)):
    options = schema.ReducerOptionsT()
    options.keepDims = False
    lite, vino = answers(network(name, options, [1, 2], [1, 2], zero_point), levels)
    found[f"{name} {zero_point}"] = lite[0].tolist(), vino[0].tolist()
for name, zero_point in (("RESIZE_NEAREST_NEIGHBOR float", None), ("RESIZE_NEAREST_NEIGHBOR INT8", 0)):
    options = schema.ResizeNearestNeighborOptionsT()
    options.alignCorners, options.halfPixelCenters = False, True
    x = places.astype(np.float32) if zero_point is None else places
    lite, vino = answers(network(name.split()[0], options, [3, 3], [1, 3, 3, 2], zero_point), x)
    found[name] = lite[0, :, 0, 0].astype(int).tolist(), vino[0, :, 0, 0].astype(int).tolist()
print(f"LiteRT and OpenVINO: {', '.join(f'{name} {lite} and {vino}' for name, (lite, vino) in found.items())}")
cases = list(found.values())
assert all(lite != vino == [-1, -1] for lite, vino in cases[:2]), "the behaviour changed"
assert all(np.abs(np.subtract(lite, vino)).max() <= 1 for lite, vino in cases[2:5]), "the behaviour changed"
assert cases[5:] == [([1, 3, 5], [0, 2, 4])] * 2, "the behaviour changed"
PYTHON
