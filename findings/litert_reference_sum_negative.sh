#!/usr/bin/env bash
# Versions: ai-edge-litert 2.3.0 (LiteRT, the successor of TensorFlow Lite), tflite-micro 0.dev20261023182759 beside it,
#        flatbuffers 25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: OpResolverType.BUILTIN_REF runs the reference kernels, plain code without any optimization, to which the optimized
#        ones and a device are compared: where they disagree by more than a level, the reference is right.
# Seen:  of some ninety operators of INT8 it is, to a level or two, but for SUM from one scale to another. Of a map whose
#        levels are all positive it is right; where they are negative (values around zero) the answers are others, up to 128
#        levels off: sixteen zeros (level -5) sum to -1 instead of the zero point, 3, and noise to 118 instead of 6. The
#        default kernels, with and without XNNPACK, and TFLM are right; so are the reference's MEAN and REDUCE_MAX.
# Output seen: "default, without XNNPACK, reference, TFLM: SUM of 0.5 [13, 13, 13], reference [13, 13, 13], off by [0, 0, 0, 0]; SUM of zeros [3, 3, 3], reference [-1, -1, -1], off by [0, 0, 4, 0]; SUM of noise [6, 2, -16], reference [118, 114, 112], off by [0, 1, 128, 1]; MEAN of noise [9, 1, -29], reference [9, 0, -29], off by [1, 1, 1, 1]; REDUCE_MAX of noise [92, 111, 120], reference [92, 111, 120], off by [0, 0, 0, 0]"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tflite-micro==0.dev20261023182759 ai-edge-litert==2.3.0 \
    flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime

SHAPE, SCALE, ZERO_POINT = (1, 4, 4, 3), 0.05, -5
noise = np.random.default_rng(0).integers(-128, 128, SHAPE).astype(np.int8)
zeros, halves = np.full(SHAPE, ZERO_POINT, np.int8), np.full(SHAPE, ZERO_POINT + 10, np.int8)


def reduction(name: str, scale: float, zero_point: int) -> bytes:
    """One INT8 reduction over rows and columns."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(np.array([1, 2], np.int32).tobytes(), np.uint8)
    graph.tensors = []
    for label, shape, step in (("x", SHAPE, (SCALE, ZERO_POINT)), ("axes", [2], None), ("y", [1, 3], (scale, zero_point))):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = label, shape, int(step is None)
        tensor.type = schema.TensorType.INT32 if step is None else schema.TensorType.INT8
        if step is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [step[0]], [step[1]]
        graph.tensors.append(tensor)
    layer.builtinOptionsType, layer.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
    layer.builtinOptions.keepDims = False
    layer.inputs, layer.outputs, graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [0], [2], [layer]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert(file: bytes, levels: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], levels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def micro(file: bytes, levels: np.ndarray) -> np.ndarray:
    interpreter = runtime.Interpreter.from_bytes(file)
    interpreter.set_input(levels, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean((1, 2))


def total(values: np.ndarray) -> np.ndarray:
    return values.sum((1, 2))


cases = {
    "SUM of 0.5": ("SUM", halves, 0.8, 3, total),
    "SUM of zeros": ("SUM", zeros, 0.8, 3, total),
    "SUM of noise": ("SUM", noise, 0.8, 3, total),
    "MEAN of noise": ("MEAN", noise, 0.03, 3, mean),
    "REDUCE_MAX of noise": ("REDUCE_MAX", noise, SCALE, ZERO_POINT, lambda values: values.max((1, 2))),
}
kinds = (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.BUILTIN_REF)
said, right = [], []
for case, (name, levels, scale, zero_point, formula) in cases.items():
    file = reduction(name, scale, zero_point)
    exact = formula((levels.astype(np.float64) - ZERO_POINT) * SCALE)
    expected = np.clip(np.round(exact / scale) + zero_point, -128, 127).astype(int)
    answers = [*(litert(file, levels, kind) for kind in kinds), micro(file, levels)]
    off = [int(np.abs(answer - expected).max()) for answer in answers]
    right.append([distance <= 1 for distance in off])
    said.append(f"{case} {expected[0].tolist()}, reference {answers[2][0].tolist()}, off by {off}")
print(f"default, without XNNPACK, reference, TFLM: {'; '.join(said)}")
wrong = [True, True, False, True]
assert right == [[True] * 4, wrong, wrong, [True] * 4, [True] * 4], "the behaviour changed"
PYTHON
