#!/usr/bin/env bash
# Versions: ai-edge-litert 2.3.0 (LiteRT, the successor of TensorFlow Lite; its reference kernels, its optimized ones and with its
#        XNNPACK delegate), tflite-micro 0.dev20261023182759 beside it, flatbuffers 25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: DIV of INT8 gives the level nearest to the quotient, to one level, as ADD, SUB and MUL do: a quotient near 0, which a
#        numerator near its zero point has, gives the output's zero point.
# Seen:  a quotient of less than about an eighth of an output step is 127 or -128, by its sign, in all kernels and on
#        microcontrollers alike; only a numerator of exactly 0 gives 0. By the largest divisor, and with output steps of a half,
#        that is 15 numerators of 256, from -8 to 7. So in a map that is divided by its norm or its sum the weakest values
#        become the strongest. Small divisors, whose quotients are larger, hold. Nothing is said.
# Output seen: "divided by level 127, numerators and answers off by more than a level: reference 15 of 256 (such as (-8, -128), (7, 127)), optimized 15 of 256 (such as (-8, -128), (7, 127)), XNNPACK 15 of 256 (such as (-8, -128), (7, 127)), TFLM 15 of 256 (such as (-8, -128), (7, 127)); by level 1: [0, 0, 0, 0]; multiplied by 127: [0, 0, 0, 0]"
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


def two_inputs(name: str, options: str, scales: tuple[float, float, float]) -> bytes:
    """One INT8 operator of two inputs, all zero points 0."""
    model, graph, layer, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    graph.tensors = []
    for scale in scales:
        tensor, step = schema.TensorT(), schema.QuantizationParametersT()
        tensor.name, tensor.shape, tensor.buffer = f"t{len(graph.tensors)}", list(levels.shape), 0
        tensor.type = schema.TensorType.INT8
        step.scale, step.zeroPoint = [scale], [0]
        tensor.quantization = step
        graph.tensors.append(tensor)
    layer.inputs, layer.outputs, graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [0, 1], [2], [layer]
    layer.builtinOptionsType, layer.builtinOptions = getattr(schema.BuiltinOptions, options), getattr(schema, options + "T")()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert(file: bytes, other: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), (levels, other), strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def micro(file: bytes, other: np.ndarray) -> np.ndarray:
    interpreter = runtime.Interpreter.from_bytes(file)
    for index, values in enumerate((levels, other)):
        interpreter.set_input(values, index)
    interpreter.invoke()
    return interpreter.get_output(0)


kernels = {
    "reference": OpResolverType.BUILTIN_REF,
    "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "XNNPACK": OpResolverType.AUTO,
}
scales = (0.05, 0.05, 0.5)


def wrong(name: str, options: str, other: int) -> dict[str, list[tuple[int, int]]]:
    """List the numerators and answers that are more than a level off, for each kernel."""
    divisor = np.full_like(levels, other)
    file = two_inputs(name, options, scales)
    left, right = levels * scales[0], divisor * scales[1]
    values = left / right if name == "DIV" else left * right
    expected = np.clip(np.round(values / scales[2]), -128, 127)
    answers = {kernel: litert(file, divisor, resolver) for kernel, resolver in kernels.items()}
    answers["TFLM"] = micro(file, divisor)
    found = {}
    for kernel, answer in answers.items():
        bad = np.abs(answer - expected) > 1
        found[kernel] = list(zip(levels[bad].tolist(), answer[bad].tolist(), strict=True))
    return found


large, small, product = wrong("DIV", "DivOptions", 127), wrong("DIV", "DivOptions", 1), wrong("MUL", "MulOptions", 127)
words = ", ".join(f"{kernel} {len(pairs)} of 256 (such as {pairs[0]}, {pairs[-1]})" for kernel, pairs in large.items())
print(
    f"divided by level 127, numerators and answers off by more than a level: {words}; "
    f"by level 1: {[len(pairs) for pairs in small.values()]}; multiplied by 127: {[len(pairs) for pairs in product.values()]}"
)
assert not any(small.values()) and not any(product.values()), "the behaviour changed"
for pairs in large.values():
    assert pairs and all(answer == (127 if numerator > 0 else -128) for numerator, answer in pairs), "the behaviour changed"
    assert max(abs(numerator) for numerator, _ in pairs) < 10, "the behaviour changed"
PYTHON
