"""Rules on what a plain ONNX Runtime session makes of a file; ONNX Runtime itself is the second source."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from lint_targets import ONNX_RUNTIME, TENSORRT, rule_ids, the_finding
from onnx import ModelProto, helper, numpy_helper
from quantized_graphs import INT8_ZERO, ONNXRUNTIME, OURS, QuantizedBuilder, float_network, residual_network
from weight_only import weight_only_layer

from calibration.lint import Severity, lint_model
from exporter.passes.float16 import typed_float16
from exporter.passes.float16_qdq import float16_qdq_from_float32

X = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)


def scaled(model: ModelProto, name: str, factor: float) -> ModelProto:
    copy = ModelProto.FromString(model.SerializeToString())
    (tensor,) = (tensor for tensor in copy.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return copy


def difference(model: ModelProto) -> float:
    """Return how far a plain session is from the file as it is written, over the largest answer."""
    answers = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {session.get_inputs()[0].name: X})[0].astype(np.float64))
    return float(np.abs(answers[0] - answers[1]).max() / np.abs(answers[0]).max())


def with_biases(model: ModelProto, value: float) -> ModelProto:
    copy = ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name.endswith(".bias"):
            kind = numpy_helper.to_array(tensor).dtype
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, value, kind), tensor.name))
    return copy


def hidden_linear(bias_factor: float, layer: str = "Gemm") -> ModelProto:
    """A Gemm, or MatMul and Add, between two pairs; its INT32 bias has `bias_factor` times the scale of its sums."""
    graph = QuantizedBuilder(ONNXRUNTIME, channels=3)
    flat = graph.node("Flatten", "flat", "input")
    values = graph.random.normal(0, 0.3, (5, 192)).astype(np.float32)
    weight, bias = graph.weight("fc.weight", values), graph.bias("fc.bias", np.full(5, 2.0, np.float32), values)
    if layer == "Gemm":
        graph.node("Gemm", "fc", graph.pair(flat), weight, bias, transB=1)
    else:
        product = graph.node("MatMul", "fc.product", graph.pair(flat), graph.node("Transpose", "turned", weight))
        graph.node("Add", "fc", *((product, bias) if layer == "MatMul + Add" else (bias, product)))
    return scaled(graph.model(graph.pair("fc", scale=np.float32(0.1)), opset=19), "fc.bias.scale", bias_factor)


def opens(layer: str) -> bool:
    """Tell whether the installed ONNX Runtime opens the layer: 1.30.0 ends the process on a turned weight of levels."""
    return layer == "Gemm" or tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 31)


@pytest.mark.parametrize("layer", ["Gemm", "MatMul + Add", "Add + MatMul"])
def test_a_gemm_whose_bias_has_another_scale_answers_wrongly(layer):
    """A session makes MatMul and Add a Gemm, in either order."""
    finding = the_finding(lint_model(hidden_linear(3.0, layer), ONNX_RUNTIME), "S012")
    assert (finding.severity, finding.places) == (Severity.ERROR, ("fc",))
    assert "3 times input scale times weight scale" in finding.message
    assert "S012" not in rule_ids(lint_model(hidden_linear(1.0, layer), ONNX_RUNTIME))
    if opens(layer):
        assert difference(hidden_linear(3.0, layer)) > 0.1
        assert difference(hidden_linear(1.0, layer)) < 0.1


def test_a_float_bias_behind_a_product_that_int32_does_not_count():
    model = hidden_linear(1.0, "MatMul + Add")
    (bias,) = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and "fc.bias" in node.input[0]]
    model.graph.node.remove(bias)
    model.graph.initializer.append(numpy_helper.from_array(np.full(5, 2.0, np.float32), bias.output[0]))
    assert "S013" not in rule_ids(lint_model(model, ONNX_RUNTIME))
    model = scaled(model, "fc.weight.scale", 1e-8)
    assert the_finding(lint_model(model, ONNX_RUNTIME), "S013").places == ("fc",)
    if opens("MatMul + Add"):
        assert difference(model) > 0.1


def test_a_gemm_whose_bias_has_a_zero_point_answers_wrongly():
    model = hidden_linear(1.0)
    (bias,) = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and "fc.bias" in node.input[0]]
    model.graph.initializer.append(numpy_helper.from_array(np.full(5, 10_000, np.int32), "its.zero_point"))
    bias.input[2:] = ["its.zero_point"]
    finding = the_finding(lint_model(model, ONNX_RUNTIME), "S012")
    assert (finding.severity, finding.places) == (Severity.ERROR, ("fc",))
    assert "has a zero point" in finding.message
    assert difference(model) > 0.1


def test_a_convolution_whose_bias_has_another_scale_is_a_warning():
    model = residual_network(ONNXRUNTIME)
    assert "S012" not in rule_ids(lint_model(model, ONNX_RUNTIME))
    finding = the_finding(lint_model(scaled(model, "layer1.0.conv1.bias.scale", 0.5), ONNX_RUNTIME), "S012")
    assert (finding.severity, finding.places) == (Severity.WARNING, ("layer1.0.conv1",))


def test_for_tensorrt_an_integer_bias_is_told_once():
    assert "S012" not in rule_ids(lint_model(scaled(residual_network(ONNXRUNTIME), "fc.bias.scale", 2), TENSORRT))


def test_a_bias_that_float16_does_not_count():
    """By hand: 1 / (0.02 * 0.0025 / 30) = 600 000 steps, FP16 ends at 65504."""
    model = with_biases(residual_network(OURS, opset=19), 1.0)
    for name in ("layer1.0.conv1", "layer2.0.downsample.0"):
        model = scaled(model, f"{name}.weight.scale", 1 / 30)
    half = typed_float16(model).model
    finding = the_finding(lint_model(half, ONNX_RUNTIME), "S013")
    assert finding.severity is Severity.ERROR
    assert finding.places == ("layer1.0.conv1", "layer2.0.downsample.0")
    assert the_finding(lint_model(half, TENSORRT), "S013").severity is Severity.WARNING
    assert difference(half) > 0.02
    assert "S013" not in rule_ids(lint_model(model, ONNX_RUNTIME))  # INT32 does count so far
    ours = float16_qdq_from_float32(model).model
    assert "S013" not in rule_ids(lint_model(ours, ONNX_RUNTIME))
    assert difference(ours) < 0.02


def test_a_bias_beside_almost_zero_weights():
    model = scaled(with_biases(residual_network(OURS), 1.0), "layer1.0.conv1.weight.scale", 1e-9)
    assert the_finding(lint_model(model, ONNX_RUNTIME), "S013").places == ("layer1.0.conv1",)


def folded(model: ModelProto) -> ModelProto:
    """Return the file as a converter leaves it that computes DequantizeLinear of constants and drops the pairs."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    copy = ModelProto.FromString(model.SerializeToString())
    alias, nodes = {}, []
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            scale = constants[node.input[1]]
            values = constants[node.input[0]].astype(np.float32) * scale.reshape(
                -1, *[1] * (constants[node.input[0]].ndim - 1)
            )
            copy.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            kept = helper.make_node(
                node.op_type, [alias.get(name, name) for name in node.input], node.output, node.name
            )
            kept.attribute.extend(node.attribute)
            nodes.append(kept)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def wide_network(style) -> ModelProto:
    graph = QuantizedBuilder(style, channels=3)
    first = graph.relu("relu", graph.layer("conv1", "input", 16))
    return graph.model(graph.layer("conv2", first, 16), opset=19)


@pytest.mark.parametrize("target", [TENSORRT, ONNX_RUNTIME])
def test_weights_that_were_int8(target):
    model = folded(wide_network(OURS))
    onnx.checker.check_model(model)
    finding = the_finding(lint_model(model, target), "L009")
    assert finding.places == ("conv1", "conv2")
    assert "INT8 is gone" in finding.message


def test_float_weights_and_int8_ones_are_no_such_thing():
    for model in (float_network(), wide_network(OURS), wide_network(ONNXRUNTIME)):
        for target in (TENSORRT, ONNX_RUNTIME):
            assert "L009" not in rule_ids(lint_model(model, target))
    assert "L009" not in rule_ids(lint_model(typed_float16(float_network()).model, TENSORRT))


def test_a_file_that_a_session_saved_for_its_own_cpu(tmp_path):
    graph = GraphBuilder(channels=3)
    first = graph.node("Relu", "relu", graph.conv("conv1", "input", 16))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    source = graph.model(graph.conv("conv2", first, 16)).SerializeToString()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    if not any(node.domain == "com.microsoft.nchwc" for node in optimized.graph.node):
        pytest.skip("this CPU has no blocked layout in ONNX Runtime")
    finding = the_finding(lint_model(optimized, ONNX_RUNTIME), "D004")
    assert "kind of CPU" in finding.message
    assert "D003" not in rule_ids(lint_model(optimized, ONNX_RUNTIME))


def test_a_saved_int8_file_that_dequantizes_at_every_run(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    source = residual_network(OURS, opset=19).SerializeToString()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    report = lint_model(onnx.load(tmp_path / "optimized.onnx"), ONNX_RUNTIME)
    assert any(finding.rule.id == "D004" and "at every run" in finding.message for finding in report.findings)


@pytest.mark.parametrize(("kind", "transposed"), [("MatMul", False), ("Gemm", False), ("Gemm", True)])
def test_float_inputs_beside_integer_weights_that_a_session_rounds(kind, transposed):
    model, x, expected = weight_only_layer(kind)
    if transposed:
        levels, layer = model.graph.initializer[0], model.graph.node[1]
        levels.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(levels).T.copy(), levels.name))
        model.graph.node[0].attribute[0].i = 0
        layer.attribute.append(helper.make_attribute("transB", 1))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    is_rounded = np.abs(session.run(None, {"input": x})[0] - expected).max() > 0.1 * expected.std()
    assert is_rounded is not transposed
    assert ("S014" in rule_ids(lint_model(model, ONNX_RUNTIME))) == is_rounded
    assert "S014" not in rule_ids(lint_model(model, TENSORRT))


def blocked(op="Conv", *, relu=False, zero=INT8_ZERO, quantized=(True, True), bias=False, blocks=True, readers=1):
    """A layer whose weights have a scale for each two of their inputs; `quantized` are its input and its answer."""
    graph = GraphBuilder(channels=3)
    data = "input" if op == "Conv" else graph.node("Flatten", "flat", "input")
    shape, axis = ((6, 3, 2, 2), 2) if op == "Conv" else ((192, 6), 0)
    step, low = graph.constant("step", np.float32(0.05)), graph.constant("low", zero)
    scales = (
        [size // 2 if blocks and place == axis else size for place, size in enumerate(shape)] if blocks else shape[:1]
    )
    weight = [
        graph.constant("levels", graph.random.integers(-127, 128, shape).astype(np.int8)),
        graph.constant("scales", graph.random.uniform(0.001, 0.01, scales).astype(np.float32)),
        graph.constant("zeros", np.zeros(scales, np.int8)),
    ]
    if quantized[0]:
        levels = graph.node("QuantizeLinear", "in.quantized", data, step, low)
        data = graph.node("DequantizeLinear", "in.dequantized", levels, step, low)
    how = {"axis": axis, "block_size": 2} if blocks else {"axis": 0}
    inputs = [data, graph.node("DequantizeLinear", "weight", *weight, **how)]
    inputs += [graph.constant("bias", np.ones(6, np.float32))] if bias else []
    end = graph.node(op, "layer", *inputs)
    end = graph.node("Relu", "relu", end) if relu else end
    ends = [graph.node("Neg", "neg", end)] if readers == 2 else []
    if quantized[1]:
        levels = graph.node("QuantizeLinear", "out.quantized", end, step, low)
        end = graph.node("DequantizeLinear", "out.dequantized", levels, step, low)
    return graph.model(end, *ends, opset=21)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({}, True),
        ({"zero": np.uint8(9)}, True),
        ({"relu": True}, False),
        ({"relu": True, "zero": np.int8(-128)}, True),
        ({"relu": True, "zero": np.uint8(0)}, True),
        ({"relu": True, "zero": np.uint8(9)}, False),
        ({"zero": np.int16(0)}, False),
        ({"bias": True}, False),
        ({"readers": 2}, False),
        ({"quantized": (False, True)}, False),
        ({"quantized": (True, False)}, False),
        ({"blocks": False}, False),
        ({"op": "MatMul", "quantized": (True, False)}, True),
        ({"op": "MatMul", "quantized": (True, False), "relu": True}, True),
        ({"op": "MatMul", "relu": True}, False),
    ],
)
def test_weights_in_blocks_that_a_session_cannot_run(form, told):
    model = blocked(**form)
    found = [finding for finding in lint_model(model, ONNX_RUNTIME).findings if finding.rule.id == "S015"]
    assert [finding.places for finding in found] == [("layer",)] * told
    assert "S015" not in rule_ids(lint_model(model, TENSORRT))
    if not told:
        assert difference(model) < 1e-5
        return
    with pytest.raises(Exception, match=r"(?i)scale shape invalid|quantization param|zero point"):
        difference(model)


def test_a_product_in_blocks_whose_answer_is_quantized():
    """ONNX Runtime 1.31 fails, 1.32 runs it."""
    assert "S015" in rule_ids(lint_model(blocked("MatMul"), ONNX_RUNTIME))
