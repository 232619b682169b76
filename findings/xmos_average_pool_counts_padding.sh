#!/usr/bin/env bash
# Versions: xmos-ai-tools 1.4.2 (XMOS' optimizer of INT8 TFLite files for its xcore chips, and its interpreter for the host, which runs
#        their kernels), ai-edge-litert 2.3.0 (the reference kernels beside it), flatbuffers 25.12.19, NumPy 1.26.4; Python 3.11, x86-64.
# Guess: what xcore-opt makes of an INT8 file answers as TensorFlow Lite does, to a level, or it refuses ("Didn't find op for
#        builtin opcode"): its interpreter is there to check that before flashing, and convolutions of all kinds hold it.
# Seen:  an AVERAGE_POOL_2D with padding SAME divides every window by its full size: the border is pulled to 0, up to 60 levels
#        of 255 (Keras' AveragePooling2D(3, strides=1, padding="same"), all over Inception). A depthwise convolution with a
#        multiplier of 2 or more has wrong channels where its own kernel takes it over (channels a multiple of 4), and is right
#        where it does not. RELU fused into a MAX_POOL_2D is dropped. Nothing is said. Windows without padding, the multiplier 1,
#        RELU fused into a convolution or an average pool, Add, Mul, Mean, Resize and Pad are right.
# Output seen: "right: Conv, Conv RELU, depthwise of 16, depthwise of 3 times 4, AveragePool VALID, AveragePool RELU, MaxPool SAME, MaxPool VALID, Add; levels off: AveragePool SAME 53, which is the sum of the window by 9: True; depthwise times 2 255, times 4 255; MaxPool RELU 70, which is without RELU: True"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check xmos-ai-tools==1.4.2 ai-edge-litert==2.3.0 flatbuffers==25.12.19 \
    numpy==1.26.4
cd "$folder"
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from xmos_ai_tools import xformer
from xmos_ai_tools.xinterpreters import TFLMHostInterpreter

random = np.random.default_rng(0)
NONE, RELU = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
STEP, ZERO = 0.05, 3


def levels(*shape: int) -> np.ndarray:
    return random.integers(-128, 128, shape).astype(np.int8)


def file_of(name: str, options: str, inputs: list, shape: tuple, step: float, **settings: int) -> bytes:
    """One INT8 operator; of `inputs`, arrays alone are the network's, (array, scales, axis) are stored, None is the picture's shape."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 3 if "CONV" in name else 2
    model.buffers, graph.tensors, graph.inputs = [schema.BufferT()], [], []
    for given in [*inputs, (shape, step, None)]:
        tensor, scale = schema.TensorT(), schema.QuantizationParametersT()
        values, scales, axis = given if isinstance(given, tuple) else (given, STEP, None)
        stored = axis is not None
        tensor.shape = list(values.shape if isinstance(values, np.ndarray) else values)
        tensor.name, tensor.buffer, tensor.type = f"t{len(graph.tensors)}", 0, schema.TensorType.INT8
        scale.scale = list(np.atleast_1d(scales).astype(float))
        scale.zeroPoint = [0 if stored else ZERO] * len(scale.scale)
        scale.quantizedDimension = axis or 0
        if stored:
            data = schema.BufferT()
            data.data = list(values.tobytes())
            model.buffers.append(data)
            tensor.buffer = len(model.buffers) - 1
            tensor.type = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.INT8
        if not stored or scale.scale != [0.0]:
            tensor.quantization = scale
        if isinstance(given, np.ndarray):
            graph.inputs.append(len(graph.tensors))
        graph.tensors.append(tensor)
    last = len(graph.tensors) - 1
    layer.inputs, layer.outputs, graph.outputs, graph.operators = list(range(last)), [last], [last], [layer]
    layer.builtinOptionsType, layer.builtinOptions = getattr(schema.BuiltinOptions, options), getattr(schema, options + "T")()
    for key, value in settings.items():
        assert hasattr(layer.builtinOptions, key)
        setattr(layer.builtinOptions, key, value)
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def both(file: bytes, pictures: list) -> tuple[np.ndarray, np.ndarray]:
    """Return the answer of the reference kernels and of what xcore-opt makes of the file."""
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    for detail, picture in zip(interpreter.get_input_details(), pictures, strict=True):
        interpreter.set_tensor(detail["index"], picture)
    interpreter.invoke()
    with open("given.tflite", "wb") as stream:
        stream.write(file)
    assert xformer.convert("given.tflite", "xcore.tflite", [("xcore-thread-count", "1")]) == 0
    chip = TFLMHostInterpreter()
    chip.set_model(model_path="xcore.tflite")
    for index, picture in enumerate(pictures):
        chip.set_tensor(index, picture)
    chip.invoke()
    answer = chip.get_tensor(chip.get_output_details()[0]["index"]).copy()
    chip.close()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(int), answer.astype(int)


def pool(name: str, padding: int, activation: int = NONE, window: int = 3, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    side = 8 if padding == SAME else (8 - window) // stride + 1
    settings = dict(padding=padding, strideH=stride, strideW=stride, filterHeight=window, filterWidth=window)
    file = file_of(name, "Pool2DOptions", [x], (1, side, side, 16), STEP, fusedActivationFunction=activation, **settings)
    return both(file, [x])


def depthwise(channels: int, times: int) -> tuple[np.ndarray, np.ndarray]:
    picture, number = levels(1, 8, 8, channels), channels * times
    steps = random.uniform(0.002, 0.01, number)
    weights = random.integers(-127, 128, (1, 3, 3, number)).astype(np.int8)
    bias = random.integers(-2000, 2000, number).astype(np.int32)
    settings = dict(padding=SAME, strideH=1, strideW=1, depthMultiplier=times, dilationHFactor=1, dilationWFactor=1)
    given = [picture, (weights, steps, 3), (bias, steps * STEP, 0)]
    return both(file_of("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", given, (1, 8, 8, number), STEP, **settings), [picture])


def convolution(activation: int = NONE) -> tuple[np.ndarray, np.ndarray]:
    steps = random.uniform(0.002, 0.01, 16)
    given = [x, (random.integers(-127, 128, (16, 3, 3, 16)).astype(np.int8), steps, 0)]
    given.append((random.integers(-2000, 2000, 16).astype(np.int32), steps * STEP, 0))
    settings = dict(padding=SAME, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=activation)
    return both(file_of("CONV_2D", "Conv2DOptions", given, (1, 8, 8, 16), 0.3, **settings), [x])


def addition() -> tuple[np.ndarray, np.ndarray]:
    return both(file_of("ADD", "AddOptions", [x, other], x.shape, 0.1), [x, other])


def off(pair: tuple[np.ndarray, np.ndarray]) -> int:
    return int(np.abs(pair[0] - pair[1]).max())


x, other = levels(1, 8, 8, 16), levels(1, 8, 8, 16)
right = {
    "Conv": convolution(),
    "Conv RELU": convolution(RELU),
    "depthwise of 16": depthwise(16, 1),
    "depthwise of 3 times 4": depthwise(3, 4),
    "AveragePool VALID": pool("AVERAGE_POOL_2D", VALID),
    "AveragePool RELU": pool("AVERAGE_POOL_2D", VALID, RELU, 2, 2),
    "MaxPool SAME": pool("MAX_POOL_2D", SAME),
    "MaxPool VALID": pool("MAX_POOL_2D", VALID, NONE, 2, 2),
    "Add": addition(),
}
average, twice, four = pool("AVERAGE_POOL_2D", SAME), depthwise(16, 2), depthwise(4, 4)
largest = pool("MAX_POOL_2D", VALID, RELU, 2, 2)
padded = np.pad(x.astype(float) - ZERO, ((0, 0), (1, 1), (1, 1), (0, 0)))
sums = sum(padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3))
by_nine = bool(np.abs(average[1] - (sums / 9 + ZERO)).max() <= 1)
no_relu = bool((largest[1] == right["MaxPool VALID"][0]).all())
print(
    f"right: {', '.join(right)}; levels off: AveragePool SAME {off(average)}, which is the sum of the window by 9: {by_nine}; "
    f"depthwise times 2 {off(twice)}, times 4 {off(four)}; MaxPool RELU {off(largest)}, which is without RELU: {no_relu}"
)
assert max(map(off, right.values())) <= 1, "the behaviour changed"
assert min(off(average), off(twice), off(four), off(largest)) > 20 and by_nine and no_relu, "the behaviour changed"
PYTHON
