#!/usr/bin/env bash
# Versions: ai-edge-quantizer 0.10.0 (Google's quantizer of LiteRT / TFLite files), ai-edge-litert 2.3.0, NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: recipe.static_wi8_ai8 with its algorithm MIN_MAX_UNIFORM_QUANT takes each activation's range over all calibration
#        samples, in whatever order they come, as TensorFlow's own converter does with a representative dataset.
# Seen:  the range is a moving average of factor 0.95 that begins at the first sample: of 20 samples the first weighs 38 %,
#        each other one 2 to 5 %. The largest value of a data set is cut off unless it comes first, and the same samples in
#        another order give another file. Neither the recipe, its name nor Quantizer.calibrate says so or has an option
#        (Calibrator takes a function for it; min_max_update exists and is not the default). Nothing warns.
# Output seen: "20 samples, largest value 10.0: input's range up to 1.45 with the bright one last, 4.396 with it first, 1.284
#        in the middle; 1.45 is the highest level of the file with it last"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

WIDTH = 8


def tensor(name: str, shape: list[int], buffer: int) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
    return made


def float_model() -> bytearray:
    """One fully connected layer."""
    layer, graph, model, code = schema.OperatorT(), schema.SubGraphT(), schema.ModelT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    layer.opcodeIndex, layer.inputs, layer.outputs = 0, [0, 1, -1], [2]
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    graph.tensors = [tensor("x", [1, WIDTH], 0), tensor("w", [WIDTH, WIDTH], 1), tensor("y", [1, WIDTH], 0)]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [layer]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(np.eye(WIDTH, dtype=np.float32).tobytes(), np.uint8)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    for entry, name, index in ((signature.inputs[0], "x", 0), (signature.outputs[0], "y", 2)):
        entry.name, entry.tensorIndex = name, index
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return builder.Output()


def range_and_highest(samples: list[np.ndarray]) -> tuple[float, float]:
    made = quantizer.Quantizer(bytearray(float_model()), recipe.static_wi8_ai8())
    ranges = made.calibrate({"serving_default": [{"x": sample} for sample in samples]})
    file = Interpreter(model_content=bytes(made.quantize(ranges).quantized_model))
    step, zero_point = file.get_input_details()[0]["quantization"]
    return round(float(np.max(ranges["x"]["max"])), 3), round(float(step * (127 - zero_point)), 3)


plain = [np.linspace(0, 1, WIDTH, dtype=np.float32)[None] for _ in range(19)]
bright = plain[0] * 10
last, first, middle = (range_and_highest([*plain[:at], bright, *plain[at:]]) for at in (19, 0, 10))
print(
    f"20 samples, largest value {bright.max()}: input's range up to {last[0]} with the bright one last, {first[0]} with it "
    f"first, {middle[0]} in the middle; {last[1]} is the highest level of the file with it last"
)
weight = 0.95**19
assert np.allclose(first[0], weight * 10 + (1 - weight), atol=0.01) and np.allclose(last[0], 0.05 * 10 + 0.95, atol=0.01)
assert last[1] < 1.5, "the behaviour changed"
PYTHON
