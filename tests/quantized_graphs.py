"""Small residual networks with Q/DQ as each quantizer places it, written by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from graph_builder import GraphBuilder
from onnx import ModelProto

SCALE = np.float32(0.02)
INT8_ZERO = np.int8(0)


@dataclass(frozen=True)
class Style:
    """How a quantizer writes a file.

    main, shortcut: whether the operands of residual Adds have a pair of their own.
    zero: the activations' zero point, whose type is theirs; None leaves the input out.
    weights: "dq" stores INT8, "qdq" keeps the float constant behind Q and DQ, "float" leaves it alone.
    integer_bias: biases as INT32 behind DQ.
    relu: whether ReLUs are nodes, or left to the clipping of Q.
    unsigned_behind_relu: what cannot be negative is UINT8 with zero point 0.
    """

    main: bool = False
    shortcut: bool = True
    zero: np.generic | None = INT8_ZERO
    weights: str = "dq"
    integer_bias: bool = False
    relu: bool = True
    unsigned_behind_relu: bool = False


OURS = Style()
MODELOPT = Style(weights="qdq")
"""ModelOpt keeps float weights behind Q and DQ, and quantizes one side of each Add.
Source: modelopt/onnx/quantization/ort_utils.py, int8.py."""
ONNXRUNTIME_SYMMETRIC = Style(main=True)
"""quantize_static with ActivationSymmetric and without QuantizeBias."""
ONNXRUNTIME = Style(main=True, zero=np.uint8(7), integer_bias=True, relu=False)
"""quantize_static as it is: the ReLUs go into the clipping of Q."""
NNCF = Style(main=True, unsigned_behind_relu=True)
"""As nncf 3.4.0 wrote ResNet-50 in `benchmarks/lint_peers.py`."""


class QuantizedBuilder(GraphBuilder):
    """Adds layers and pairs in one style; tensors are named after the modules that make them."""

    def __init__(self, style: Style, **options) -> None:
        super().__init__(**options)
        self.style = style
        self.pairs: dict[str, str] = {}

    def pair(self, data: str, *, scale=SCALE) -> str:
        """Return the quantized copy of `data`; each tensor has one."""
        if data not in self.pairs:
            inputs = [self.constant(f"{data}.scale", scale)]
            if self.style.zero is not None:
                positive = (
                    self.style.unsigned_behind_relu and self.nodes and self.nodes[-1].op_type in ("Relu", "Flatten")
                )
                inputs.append(self.constant(f"{data}.zero", np.uint8(0) if positive else self.style.zero))
            quantized = self.node("QuantizeLinear", f"{data}.quantized", data, *inputs)
            self.pairs[data] = self.node("DequantizeLinear", f"{data}.dequantized", quantized, *inputs)
        return self.pairs[data]

    def layer(self, name: str, data: str, out: int, *, kernel: int = 3) -> str:
        """Add a convolution that keeps the size, its input and weight quantized."""
        values = self.random.normal(0, 0.3, (out, self.channels[data], kernel, kernel)).astype(np.float32)
        bias = self.bias(f"{name}.bias", self.random.normal(0, 0.1, out).astype(np.float32), values)
        self.node("Conv", name, self.pair(data), self.weight(f"{name}.weight", values), bias, pads=[kernel // 2] * 4)
        self.channels[name] = out
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        """Return a weight [O, ...] with one scale per output channel, as the style stores it."""
        if self.style.weights == "float":
            return self.constant(name, values)
        scale = np.abs(values).reshape(len(values), -1).max(axis=1) / 127
        scales = self.constant(f"{name}.scale", scale.astype(np.float32))
        zeros = self.constant(f"{name}.zero", np.zeros(len(scale), np.int8))
        if self.style.weights == "qdq":
            source = self.node("QuantizeLinear", f"{name}.q", self.constant(name, values), scales, zeros, axis=0)
        else:
            steps = values / scale.reshape(-1, *[1] * (values.ndim - 1))
            source = self.constant(name, np.rint(steps).astype(np.int8))
        return self.node("DequantizeLinear", f"{name}.dq", source, scales, zeros, axis=0)

    def bias(self, name: str, values: np.ndarray, weight: np.ndarray) -> str:
        """Return a bias [O], as the style stores it: INT32 has the scale of the sums."""
        if not self.style.integer_bias:
            return self.constant(name, values)
        scale = (SCALE * np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127).astype(np.float32)
        scales = self.constant(f"{name}.scale", scale)
        integers = self.constant(name, np.rint(values / scale).astype(np.int32))
        return self.node("DequantizeLinear", f"{name}.dq", integers, scales, axis=0)

    def relu(self, name: str, data: str) -> str:
        return self.node("Relu", name, data) if self.style.relu else data

    def add(self, name: str, main: str, shortcut: str) -> str:
        """Add a residual Add, with pairs on its operands as the style has it."""
        main = self.pair(main) if self.style.main else main
        channels = self.channels[shortcut]
        self.node("Add", name, main, self.pair(shortcut) if self.style.shortcut else shortcut)
        self.channels[name] = channels
        return name


def residual_network(style: Style, *, opset: int = 17) -> ModelProto:
    """A stem, an identity block, a projection block and a classifier, named as in torchvision."""
    graph = QuantizedBuilder(style, channels=3)
    stem = graph.relu("relu", graph.layer("conv1", "input", 4))
    first = graph.relu("layer1.0.relu", graph.layer("layer1.0.conv1", stem, 4))
    second = graph.layer("layer1.0.conv2", first, 4)
    block = graph.relu("layer1.0.relu_1", graph.add("layer1.0.add", second, stem))
    first = graph.relu("layer2.0.relu", graph.layer("layer2.0.conv1", block, 8))
    second = graph.layer("layer2.0.conv2", first, 8)
    projection = graph.layer("layer2.0.downsample.0", block, 8, kernel=1)
    block = graph.relu("layer2.0.relu_1", graph.add("layer2.0.add", second, projection))
    block = block if style.relu else graph.pair(block)  # what has no ReLU left is clipped by a Q
    pooled = graph.node("Flatten", "flatten", graph.node("GlobalAveragePool", "avgpool", block), axis=1)
    values = graph.random.normal(0, 0.3, (5, 8)).astype(np.float32)
    weight, bias = graph.weight("fc.weight", values), graph.bias("fc.bias", np.zeros(5, np.float32), values)
    graph.node("Gemm", "fc", graph.pair(pooled), weight, bias, transB=1)
    return graph.model("fc", opset=opset)


def float_layer_between_pairs() -> tuple[QuantizedBuilder, str]:
    """A Conv left in float between two pairs: its first channel adds 0.3 of each input, the second 0.0003.

    The second is 0 in INT8 of one scale. Returned with the tensor behind the second pair.
    """
    graph = QuantizedBuilder(OURS, channels=3)
    weight = np.full((2, 3, 1, 1), 0.3, np.float32) * np.float32([1, 0.001]).reshape(2, 1, 1, 1)
    layer = graph.node("Conv", "conv", graph.pair("input", scale=np.float32(0.05)), graph.constant("weight", weight))
    return graph, graph.pair(layer, scale=np.float32(0.0001))


def float_network(*, opset: int = 17) -> ModelProto:
    """The same network without quantization."""
    graph = GraphBuilder(channels=3)
    stem = graph.node("Relu", "relu", graph.conv("conv1", "input", 4))
    first = graph.node("Relu", "layer1.0.relu", graph.conv("layer1.0.conv1", stem, 4))
    second = graph.conv("layer1.0.conv2", first, 4)
    block = graph.node("Relu", "layer1.0.relu_1", graph.node("Add", "layer1.0.add", second, stem))
    first = graph.node("Relu", "layer2.0.relu", graph.conv("layer2.0.conv1", block, 8))
    second = graph.conv("layer2.0.conv2", first, 8)
    projection = graph.conv("layer2.0.downsample.0", block, 8, kernel=1)
    block = graph.node("Relu", "layer2.0.relu_1", graph.node("Add", "layer2.0.add", second, projection))
    graph.gemm("fc", block, 5, transB=1)
    return graph.model("fc", opset=opset)
