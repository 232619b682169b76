"""Layers that stay float32 in an INT8 + FP16 file: a plain ONNX Runtime session answers as the file is written."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from quantized_graphs import OURS, QuantizedBuilder, residual_network

from exporter.passes import float16_qdq
from exporter.passes.float16_qdq import float16_qdq_from_float32
from exporter.passes.float32_layers import Float32Layers, separate_float32_layers

X = np.random.default_rng(3).normal(size=(4, 3, 8, 8)).astype(np.float32)


def large_biases(model):
    """Make weights small and every float bias 1: 100 000 products of the layer or more, which FP16 does not count."""
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name.endswith(".bias"):
            values = np.where(np.arange(len(values)) % 2, -1, 1).astype(values.dtype)
        elif tensor.name.endswith("weight.scale"):
            values = values / np.float32(30)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def answers(model, *, plain):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": X})[0].astype(np.float64)


def assert_plain_session_is_right(model):
    written = answers(model, plain=False)
    assert np.isfinite(written).all()
    np.testing.assert_allclose(answers(model, plain=True), written, rtol=0, atol=3e-2 * np.abs(written).max())


def one_layer(behind, *, op="Conv"):
    """A quantized layer, what follows it, a pair, and a last layer; its bias is thousands of its products."""
    graph = QuantizedBuilder(OURS, channels=3)
    if op == "Conv":
        data = graph.layer("layer", "input", 6)
    elif op == "ConvTranspose":
        values = graph.random.normal(0, 0.3, (3, 6, 2, 2)).astype(np.float32)
        scales = graph.constant("w.weight.scale", np.full(6, 0.004, np.float32))
        levels = graph.constant("w", np.clip(np.rint(values / 0.004), -127, 127).astype(np.int8))
        weight = graph.node("DequantizeLinear", "w.dq", levels, scales, axis=1)
        data = graph.node(
            "ConvTranspose", "layer", graph.pair("input"), weight, graph.constant("b.bias", np.ones(6, "f"))
        )
        graph.channels[data] = 6
    else:
        flat = graph.node("Flatten", "flat", "input")
        weight = graph.weight("layer.weight", graph.random.normal(0, 0.3, (6, 192)).astype(np.float32))
        bias = graph.constant("layer.bias", np.ones(6, np.float32))
        data = graph.node("Gemm", "layer", graph.pair(flat), weight, bias, transB=1)
    data = behind(graph, data)
    last = graph.pair(data, scale=np.float32(0.02))
    if op == "Gemm":
        weight = graph.weight("last.weight", graph.random.normal(0, 0.3, (5, 6)).astype(np.float32))
        return graph.model(graph.node("Gemm", "last", last, weight, transB=1), opset=19)
    graph.channels[data] = 6
    weight = graph.weight("last.weight", graph.random.normal(0, 0.3, (5, 6, 1, 1)).astype(np.float32))
    return graph.model(graph.node("Conv", "last", last, weight), opset=19)


BEHIND = {
    "nothing": lambda graph, data: data,
    "relu": lambda graph, data: graph.node("Relu", "act", data),
    "relu6": lambda graph, data: graph.node(
        "Clip", "act", data, graph.constant("lo", np.float32(0)), graph.constant("hi", np.float32(6))
    ),
    "relu, pool": lambda graph, data: graph.node(
        "MaxPool", "pool", graph.node("Relu", "act", data), kernel_shape=[2, 2], strides=[2, 2]
    ),
    "pool": lambda graph, data: graph.node("MaxPool", "pool", data, kernel_shape=[2, 2]),
    "leaky relu": lambda graph, data: graph.node("LeakyRelu", "act", data, alpha=0.1),
    "hard swish": lambda graph, data: graph.node("HardSwish", "act", data),
    "transpose": lambda graph, data: graph.node("Transpose", "moved", data, perm=[0, 1, 3, 2]),
}


def test_without_the_separation_a_plain_session_is_wrong(monkeypatch):
    """The reason for it all; where this fails, ONNX Runtime has been mended and float32 layers are no longer needed."""
    monkeypatch.setattr(float16_qdq, "separate_float32_layers", lambda model: Float32Layers(model, frozenset()))
    for model in (one_layer(BEHIND["relu"]), one_layer(BEHIND["nothing"], op="Gemm"), residual_network(OURS, opset=19)):
        half = float16_qdq_from_float32(large_biases(model)).model
        with pytest.raises(AssertionError):
            assert_plain_session_is_right(half)


def concatenated(*, moved=(), behind=()):
    """Two layers' tensors, each behind a pair that another layer reads too, side by side into a third."""
    graph = QuantizedBuilder(OURS, channels=3)
    read = []
    for place in range(2):
        layer = graph.layer(f"part{place}", "input", 4)
        value = graph.pair(layer, scale=np.float32(0.02 + 0.01 * place))
        graph.channels[value] = 4
        for op in moved[place : place + 1]:
            value = graph.node(op, f"moved{place}", value, **({"kernel_shape": [1, 1]} if op == "MaxPool" else {}))
        read.append(value)
    data = graph.node("Concat", "together", *read, axis=1)
    for op in behind:
        data = graph.node(op, f"behind.{op}", data)
    last = graph.pair(data, scale=np.float32(0.03))
    weight = graph.weight("last.weight", graph.random.normal(0, 0.3, (5, 8, 1, 1)).astype(np.float32))
    return graph.model(graph.node("Conv", "last", last, weight), opset=19)


def test_without_the_separation_a_concat_does_not_open(monkeypatch):
    monkeypatch.setattr(float16_qdq, "separate_float32_layers", lambda model: Float32Layers(model, frozenset()))
    with pytest.raises(Exception, match="QLinearConcat"):
        answers(float16_qdq_from_float32(concatenated()).model, plain=True)


@pytest.mark.parametrize("behind", [(), ("Relu",)])
@pytest.mark.parametrize("moved", [(), ("MaxPool",), ("Identity", "MaxPool")])
def test_a_concat_between_pairs(moved, behind):
    """As in Res2Net, DLA, VoVNet: what is collected is quantized already, as other layers read it."""
    assert_plain_session_is_right(float16_qdq_from_float32(concatenated(moved=moved, behind=behind)).model)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_convolution_whose_bias_is_large(op, behind):
    model = large_biases(one_layer(BEHIND[behind], op=op))
    assert_plain_session_is_right(float16_qdq_from_float32(model).model)


@pytest.mark.parametrize("behind", ["nothing", "relu", "relu6", "leaky relu"])
def test_a_hidden_linear_layer_whose_bias_is_large(behind):
    model = large_biases(one_layer(BEHIND[behind], op="Gemm"))
    half = float16_qdq_from_float32(model).model
    assert_plain_session_is_right(half)
    np.testing.assert_allclose(
        answers(half, plain=False),
        answers(model, plain=False),
        rtol=0,
        atol=2e-2 * np.abs(answers(model, plain=False)).max(),
    )


def test_a_residual_network():
    model = large_biases(residual_network(OURS, opset=19))
    half = float16_qdq_from_float32(model).model
    assert_plain_session_is_right(half)
    types = {info.name: info.type.tensor_type.elem_type for info in half.graph.value_info}
    stays = {"conv1", "relu", "layer1.0.conv1", "layer1.0.relu", "layer2.0.conv1", "layer2.0.downsample.0"}
    assert {types[name] for name in stays} == {TensorProto.FLOAT}
    # The residual stream is what FP16 is for, and the shortcut that is added to it.
    half_typed = {"layer1.0.conv2", "layer1.0.add", "layer1.0.relu_1", "layer2.0.conv2", "layer2.0.add", "avgpool"}
    assert {types[name] for name in half_typed} == {TensorProto.FLOAT16}
    assert types["layer2.0.downsample.0.dequantized"] == TensorProto.FLOAT16


def test_a_pair_has_one_number_in_both_types():
    half = float16_qdq_from_float32(residual_network(OURS, opset=19)).model
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    scales: dict[str, set[float]] = {}
    for node in half.graph.node:
        if node.op_type == "QuantizeLinear":
            scales[node.output[0]] = {float(constants[node.input[1]])}
    pairs = [node for node in half.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in scales]
    assert {constants[node.input[1]].dtype for node in pairs} == {np.dtype("f4"), np.dtype("f2")}
    for node in pairs:
        assert scales[node.input[0]] == {float(constants[node.input[1]])}, node.name


def test_separating_changes_no_answer_and_not_the_model_given():
    model = residual_network(OURS, opset=19)
    before = model.SerializeToString()
    separated = separate_float32_layers(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(separated.model, full_check=True)
    np.testing.assert_array_equal(answers(separated.model, plain=False), answers(model, plain=False))


def test_layers_that_go_elsewhere_become_float16():
    graph = QuantizedBuilder(OURS, channels=3)
    conv = graph.layer("conv", "input", 4)
    graph.node("Add", "sum", graph.pair(conv), graph.node("Tanh", "tanh", conv))  # two readers: no session touches it
    separated = separate_float32_layers(graph.model("sum", opset=19))
    assert separated.kept == frozenset()
