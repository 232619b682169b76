#!/usr/bin/env bash
# Versions: tflite2onnx 0.4.1 with tflite 2.18.0, ai-edge-litert 2.3.0 (LiteRT) to compare with, onnx 1.23.2, onnxruntime 1.32.0
#        (CPU), flatbuffers 25.12.19, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: tflite2onnx brings an operator to ONNX with its options and its quantization, or refuses, as it does weights per channel
#        ("Per-tensor support only currently") and LEAKY_RELU ("Unsupported TFLite OP: 98").
# Seen:  PAD and ABS of INT8 are left on the levels, without their zero point: the padding before a convolution is level 0
#        where it should be the zero point (-128 behind a ReLU, so that a border of the middle of the range stands around
#        every map), and ABS mirrors at level 0. SOFTMAX forgets beta, RESIZE_NEAREST_NEIGHBOR its half_pixel_centers and
#        align_corners, which RESIZE_BILINEAR beside it heeds. With zero point 0 and the usual options answers are LiteRT's.
# Output seen: "off at most: PAD of zero point 0 0, MAX_POOL_2D 0, SOFTMAX of beta 1 1.19e-07, bilinear of centers 8.34e-07, PAD of -128 128, ABS of -5 10, SOFTMAX of beta 0.3 0.42, nearest of centers 3.38"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tflite2onnx==0.4.1 tflite==2.18.0 ai-edge-litert==2.3.0 \
    onnx==1.23.2 onnxruntime==1.32.0 flatbuffers==25.12.19 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - >"$folder/said" 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; tail -1 "$folder/said"; exit 1; }
import logging
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import numpy as np
import onnxruntime
import tflite2onnx
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
levels = random.integers(-128, 128, (1, 7, 6, 4)).astype(np.int8)
numbers = random.normal(size=levels.shape).astype(np.float32)


@dataclass
class Layer:
    kind: str
    x: np.ndarray
    shape: tuple[int, ...] = levels.shape
    zero_point: int = 0
    constants: list[np.ndarray] = field(default_factory=list)
    options: tuple[str, dict[str, object]] | None = None

    def file(self) -> bytes:
        """A TFLite file of this operator; INT8 has a scale of 0.05 on both sides."""
        model, graph, node, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, self.kind)
        code.version = 2
        graph.tensors, model.buffers = [], [schema.BufferT()]
        for shape, data in [(self.x.shape, None), *((c.shape, c) for c in self.constants), (self.shape, None)]:
            tensor, step, buffer = schema.TensorT(), schema.QuantizationParametersT(), schema.BufferT()
            tensor.name, tensor.shape, tensor.buffer = f"t{len(graph.tensors)}", list(shape), 0
            tensor.type = schema.TensorType.INT8 if self.x.dtype == np.int8 else schema.TensorType.FLOAT32
            if data is not None:
                tensor.type, tensor.buffer = schema.TensorType.INT32, len(model.buffers)
                buffer.data = np.frombuffer(data.astype(np.int32).tobytes(), np.uint8)
                model.buffers.append(buffer)
            elif self.x.dtype == np.int8:
                step.scale, step.zeroPoint = [0.05], [self.zero_point]
                tensor.quantization = step
            graph.tensors.append(tensor)
        last = len(graph.tensors) - 1
        node.inputs, node.outputs, graph.inputs, graph.outputs = list(range(last)), [last], [0], [last]
        if self.options:
            name, values = self.options
            node.builtinOptionsType, node.builtinOptions = getattr(schema.BuiltinOptions, name), getattr(schema, name + "T")()
            for key, value in values.items():
                setattr(node.builtinOptions, key, value)
        graph.operators = [node]
        model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def compare(layer: Layer) -> float:
    """Largest distance of the converted file's answer from LiteRT's, in levels or numbers."""
    file = layer.file()
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], layer.x)
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    Path("layer.tflite").write_bytes(file)
    tflite2onnx.convert("layer.tflite", "layer.onnx")
    session = onnxruntime.InferenceSession("layer.onnx", providers=["CPUExecutionProvider"])
    turned = session.get_inputs()[0].shape == [1, 4, 7, 6]
    got = session.run(None, {session.get_inputs()[0].name: layer.x.transpose(0, 3, 1, 2) if turned else layer.x})[0]
    got = got.transpose(0, 2, 3, 1) if got.shape != want.shape else got
    return float(np.abs(got.astype(np.float64) - want).max())


around = [np.array([[0, 0], [1, 1], [2, 1], [0, 0]])]
pool = ("Pool2DOptions", dict(padding=0, strideW=2, strideH=2, filterWidth=3, filterHeight=3, fusedActivationFunction=0))
size = {"constants": [np.array([10, 9])], "shape": (1, 10, 9, 4)}
centers = {"halfPixelCenters": True, "alignCorners": False}
kept = {
    "PAD of zero point 0": Layer("PAD", levels, (1, 9, 9, 4), 0, around),
    "MAX_POOL_2D": Layer("MAX_POOL_2D", numbers, (1, 4, 3, 4), options=pool),
    "SOFTMAX of beta 1": Layer("SOFTMAX", numbers, options=("SoftmaxOptions", {"beta": 1.0})),
    "bilinear of centers": Layer("RESIZE_BILINEAR", numbers, **size, options=("ResizeBilinearOptions", centers)),
}
lost = {
    "PAD of -128": Layer("PAD", levels, (1, 9, 9, 4), -128, around),
    "ABS of -5": Layer("ABS", levels.clip(-110, 110), zero_point=-5),
    "SOFTMAX of beta 0.3": Layer("SOFTMAX", numbers, options=("SoftmaxOptions", {"beta": 0.3})),
    "nearest of centers": Layer("RESIZE_NEAREST_NEIGHBOR", numbers, **size, options=("ResizeNearestNeighborOptions", centers)),
}
held, off = ({name: compare(layer) for name, layer in layers.items()} for layers in (kept, lost))
print(f"off at most: {', '.join(f'{name} {distance:.3g}' for name, distance in {**held, **off}.items())}")
assert max(held.values()) < 1e-4, "the behaviour changed"
assert off["PAD of -128"] == 128 and off["ABS of -5"] > 2 and min(off.values()) > 0.1, "the behaviour changed"
PYTHON
tail -1 "$folder/said"
