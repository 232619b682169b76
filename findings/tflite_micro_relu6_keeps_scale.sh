#!/usr/bin/env bash
# Versions: tflite-micro 0.dev20261023182759 (TensorFlow Lite for Microcontrollers, its Python interpreter), ai-edge-litert 2.3.0
#        (LiteRT, and its reference kernels), flatbuffers 25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a quantized TFLite file answers on a microcontroller as in LiteRT, to one level, or is refused where an operator is
#        missing: TFLM's kernels are the reference kernels, and its Python interpreter is there to check that before flashing.
# Seen:  of some ninety operators of INT8 that holds (RELU among them), but for RELU6. It clips the levels of its input at the output's
#        zero point and at the output's level of 6, and rescales nothing. Where both sides have one scale and zero point that
#        is the same; where they have not (an output of 6/255 and -128, all of whose levels are used, behind an Add or a
#        convolution that could not take the ReLU6 in) answers are up to 123 of 255 levels off. Nothing is said.
# Output seen: "levels off at most, RELU6: one scale LiteRT 0, reference 0, TFLM 0; to 6/255 LiteRT 1, reference 1, TFLM 123; half the scale LiteRT 0, reference 0, TFLM 60; RELU: 0 0 0, 1 1 1, 0 0 0"
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

levels = np.arange(-128, 128, dtype=np.int8)[None]


def activation(name: str, read: tuple[float, int], written: tuple[float, int]) -> bytes:
    """One INT8 operator from one scale and zero point to another."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    graph.tensors = []
    for scale, zero_point in (read, written):
        tensor, step = schema.TensorT(), schema.QuantizationParametersT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = "xy"[len(graph.tensors)], levels.shape, schema.TensorType.INT8, 0
        step.scale, step.zeroPoint = [scale], [zero_point]
        tensor.quantization = step
        graph.tensors.append(tensor)
    layer.inputs, layer.outputs, graph.inputs, graph.outputs, graph.operators = [0], [1], [0], [1], [layer]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert(file: bytes, resolver: OpResolverType) -> np.ndarray:
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], levels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def micro(file: bytes) -> np.ndarray:
    interpreter = runtime.Interpreter.from_bytes(file)
    interpreter.set_input(levels, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


pairs = {
    "one scale": ((0.05, -5), (0.05, -5)),
    "to 6/255": ((0.05, -5), (6 / 255, -128)),
    "half the scale": ((0.1, 0), (0.05, 0)),
}
off: dict[str, list[list[int]]] = {}
for name, highest in (("RELU6", 6), ("RELU", np.inf)):
    off[name] = []
    for read, written in pairs.values():
        file = activation(name, read, written)
        values = np.clip((levels.astype(np.float64) - read[1]) * read[0], 0, highest)
        expected = np.clip(np.round(values / written[0]) + written[1], -128, 127)
        answers = [litert(file, OpResolverType.AUTO), litert(file, OpResolverType.BUILTIN_REF), micro(file)]
        off[name].append([int(np.abs(answer - expected).max()) for answer in answers])
relu6 = "; ".join(f"{n} LiteRT {a}, reference {b}, TFLM {c}" for n, (a, b, c) in zip(pairs, off["RELU6"], strict=True))
print(f"levels off at most, RELU6: {relu6}; RELU: {', '.join(' '.join(map(str, row)) for row in off['RELU'])}")
assert max(max(row) for row in off["RELU"]) <= 1 and max(max(row[:2]) for row in off["RELU6"]) <= 1, "the behaviour changed"
assert [row[2] > 1 for row in off["RELU6"]] == [False, True, True], "the behaviour changed"
PYTHON
