"""Every rule on a small graph that breaks it and nothing else; TensorRT-RTX's parser as the second source."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from lint_targets import JETPACK5, ONNX_RUNTIME, TENSORRT, rule_ids, the_finding
from onnx import ModelProto, TensorProto, helper, numpy_helper
from quantized_graphs import OURS, QuantizedBuilder, Style, float_network, residual_network

from calibration.lint import Severity, lint_model
from calibration.lint.rule_registry import all_rules
from exporter.target import TARGETS
from resnet_export.commands.lint import lint_target


def replaced(model: ModelProto, name: str, values) -> ModelProto:
    """Return a copy in which a constant has other values."""
    copy = ModelProto.FromString(model.SerializeToString())
    (tensor,) = (tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))
    return copy


def renamed(model: ModelProto, name_of) -> ModelProto:
    """Return a copy in which node i is called `name_of(i, node)`; tensors keep their names."""
    copy = ModelProto.FromString(model.SerializeToString())
    for place, node in enumerate(copy.graph.node):
        node.name = name_of(place, node)
    return copy


def test_rules_have_ids_of_their_own_and_say_what_to_do():
    ids = [rule.id for rule in all_rules()]
    assert len(ids) == len(set(ids)) == len({rule.name for rule in all_rules()})
    assert all(re.fullmatch(r"[DRLSTIB]\d{3}", name) for name in ids)
    assert all(rule.summary[-1] not in ".;" and rule.remedy[-1] not in ".;" for rule in all_rules())


# Scales and types


@pytest.mark.parametrize(
    ("values", "rule", "word"),
    [
        (np.float32(0), "S001", "0"),
        (np.float32(-0.1), "S001", "negative"),
        (np.float32("nan"), "S002", "NaN"),
        (np.float32("inf"), "S002", "infinite"),
    ],
)
def test_bad_scale_of_an_activation(values, rule, word):
    report = lint_model(replaced(residual_network(OURS), "layer1.0.relu.scale", values), TENSORRT)
    assert rule_ids(report) == [rule]
    assert report.findings[0].places == ("layer1.0.relu",)
    assert word in report.findings[0].message


def test_one_dead_channel_of_a_weight():
    scales = np.full(4, 0.01, np.float32)
    scales[2] = 0
    report = lint_model(replaced(residual_network(OURS), "layer1.0.conv2.weight.scale", scales), TENSORRT)
    assert rule_ids(report) == ["S001"]
    assert report.findings[0].places == ("layer1.0.conv2",)
    assert report.findings[0].message == "a scale of a weight is 0"


def test_a_scale_whose_bytes_are_damaged():
    model = residual_network(OURS)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "input.scale")
    scale.data_type = 99  # no type of ONNX; its checker takes it
    report = lint_model(model, TENSORRT)
    assert the_finding(report, "S011").places == ("input",)


def test_float16_scales_below_the_least_normal_number():
    model = residual_network(OURS, opset=20)
    for name in ("conv1.weight.scale", "input.scale"):
        small = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        small.CopyFrom(numpy_helper.from_array(np.full(tuple(small.dims), 3e-5, np.float16), name))
    report = lint_model(model, TENSORRT)
    assert "S009" in rule_ids(report)
    on_jetpack5 = lint_model(model, JETPACK5)
    assert {finding.severity for finding in on_jetpack5.findings if finding.rule.id == "S009"} == set(Severity) - {
        Severity.NOTE
    }


def test_integer_bias_is_told_for_tensorrt_only():
    model = residual_network(Style(integer_bias=True))
    assert rule_ids(lint_model(model, TENSORRT)) == ["S004", "D001"]
    assert "S004" not in rule_ids(lint_model(model, ONNX_RUNTIME))


@pytest.mark.parametrize("zero", [np.uint8(0), None], ids=["explicit", "by default"])
def test_unsigned_activations(zero):
    report = lint_model(residual_network(Style(zero=zero)), TENSORRT)
    assert rule_ids(report) == ["S005", "D001"]
    assert len(report.findings[0].places) == 7  # the input, four ReLUs, the projection, the pooled values


def test_a_zero_point_that_is_not_0():
    report = lint_model(residual_network(Style(zero=np.int8(3))), TENSORRT)
    assert rule_ids(report) == ["S006", "D001"]


def test_mixed_dialects():
    model = replaced(residual_network(OURS), "layer1.0.relu.zero", np.uint8(0))
    report = lint_model(model, TENSORRT)
    assert report.summary.dialect == "mixed"
    assert the_finding(report, "D001").message == (
        "mixed dialects: 6 activations are INT8 around zero, 1 UINT8 or with a zero point"
    )
    assert the_finding(report, "S005").places == ("layer1.0.relu",)


def test_a_scale_per_channel_of_an_activation():
    graph = QuantizedBuilder(Style(zero=np.zeros(3, np.int8)), channels=3)
    graph.pair("input", scale=np.full(3, 0.02, np.float32))
    report = lint_model(graph.model(graph.layer("conv1", "input", 4)), TENSORRT)
    assert rule_ids(report) == ["S007", "D001"]
    assert report.findings[0].places == ("input",)


def test_a_scale_that_is_computed():
    model = residual_network(OURS)
    (q,) = (node for node in model.graph.node if node.name == "input.quantized")
    abs_max = helper.make_node("ReduceMax", ["input"], ["input.max"], name="input.max", keepdims=0)
    model.graph.node.insert(0, abs_max)
    q.input[1] = "input.max"
    report = lint_model(model, TENSORRT)
    assert rule_ids(report)[0] == "S003"
    assert report.findings[0].places == ("input",)


def test_q_and_dq_with_different_scales():
    model = residual_network(OURS)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    (dq,) = (node for node in model.graph.node if node.name == "layer1.0.relu.dequantized")
    dq.input[1] = "other"
    report = lint_model(model, TENSORRT)
    assert rule_ids(report) == ["S008"]
    assert report.findings[0].places == ("layer1.0.relu",)


def test_tensorrt_8_wants_a_zero_point():
    model = residual_network(OURS)
    (dq,) = (node for node in model.graph.node if node.name == "fc.weight.dq")
    del dq.input[2]
    assert rule_ids(lint_model(model, TENSORRT)) == []
    assert rule_ids(lint_model(model, JETPACK5)) == ["S010"]


# Layers and pairs


def test_layers_left_in_float():
    graph = QuantizedBuilder(OURS, channels=3)
    first = graph.layer("layer1.0.conv1", "input", 4)
    graph.conv("layer1.0.conv2", graph.node("Relu", "relu", first), 4)
    report = lint_model(graph.model("layer1.0.conv2"), TENSORRT)
    assert rule_ids(report) == ["L001"]
    assert report.findings[0].places == ("layer1.0.conv2",)
    assert (report.summary.num_quantized_layers, report.summary.num_layers) == (1, 2)


def test_a_gate_in_float_is_only_a_note():
    graph = QuantizedBuilder(OURS, channels=3)
    data = graph.layer("conv", "input", 4)
    pooled = graph.node("GlobalAveragePool", "se.pool", data)
    gate = graph.node("Sigmoid", "se.sigmoid", graph.conv("se.fc", pooled, 4, kernel=1))
    report = lint_model(graph.model(graph.node("Mul", "se.mul", data, gate)), TENSORRT)
    assert rule_ids(report) == ["L001"]
    assert report.findings[0].severity is Severity.NOTE
    assert report.findings[0].places == ("se.fc",)
    assert "gate" in report.findings[0].message


def test_float_weights_behind_quantized_data():
    report = lint_model(residual_network(Style(weights="float")), TENSORRT)
    assert rule_ids(report) == ["L002"]
    assert len(report.findings[0].places) == 7
    assert report.summary.num_quantized_layers == 0


def test_quantized_weights_behind_float_data():
    model = residual_network(OURS)
    (conv,) = (node for node in model.graph.node if node.name == "layer1.0.conv2")
    conv.input[0] = "layer1.0.relu"
    report = lint_model(model, TENSORRT)
    assert rule_ids(report) == ["L003", "R004"]
    assert the_finding(report, "L003").places == ("layer1.0.conv2",)


def test_one_scale_for_a_whole_weight():
    model = replaced(residual_network(OURS), "layer1.0.conv2.weight.scale", np.float32(0.01))
    model = replaced(model, "layer1.0.conv2.weight.zero", np.int8(0))
    report = lint_model(model, TENSORRT)
    assert rule_ids(report) == ["L004"]
    assert report.findings[0].places == ("layer1.0.conv2",)


def test_scales_along_the_input_channels():
    model = residual_network(OURS)
    (dq,) = (node for node in model.graph.node if node.name == "layer1.0.conv2.weight.dq")
    dq.attribute[0].i = 1
    report = lint_model(model, TENSORRT)
    assert rule_ids(report) == ["L005"]
    assert report.findings[0].places == ("layer1.0.conv2",)


def test_a_quantize_without_a_dequantize_and_the_other_way_round():
    model = residual_network(OURS)
    model.graph.node.append(
        helper.make_node("QuantizeLinear", ["fc", "input.scale", "input.zero"], ["lone"], name="lone")
    )
    model.graph.output.append(helper.make_tensor_value_info("lone", TensorProto.INT8, None))
    model.graph.output[-1].type.tensor_type.shape.dim.add()
    assert rule_ids(lint_model(model, TENSORRT)) == ["L006"]
    graph = QuantizedBuilder(OURS, channels=3)
    graph.inputs.append(helper.make_tensor_value_info("integers", TensorProto.INT8, ["batch", 3, 8, 8]))
    scales = graph.constant("s", np.float32(0.1)), graph.constant("z", np.int8(0))
    graph.node("DequantizeLinear", "dq", "integers", *scales)
    graph.node("Add", "sum", "dq", graph.layer("conv1", "input", 3))
    assert "L007" in rule_ids(lint_model(graph.model("sum"), TENSORRT))


def test_a_pair_between_a_layer_and_its_relu():
    graph = QuantizedBuilder(OURS, channels=3)
    graph.node("Relu", "relu", graph.pair(graph.layer("conv1", "input", 4)))
    report = lint_model(graph.model("relu"), TENSORRT)
    assert rule_ids(report) == ["L008"]
    assert report.findings[0].places == ("conv1",)
    assert "L008" not in rule_ids(lint_model(graph.model("relu"), ONNX_RUNTIME))


# Target, file, BatchNormalization


def test_opset_and_ir_version_against_the_target():
    model = residual_network(OURS, opset=20)
    assert rule_ids(lint_model(model, TENSORRT)) == []
    report = lint_model(model, JETPACK5)
    assert rule_ids(report)[0] == "T001"
    assert "opset 20" in report.findings[0].message
    model.ir_version = 11
    assert [finding.severity for finding in lint_model(model, TENSORRT).findings] == [Severity.NOTE]
    assert the_finding(lint_model(model, ONNX_RUNTIME), "T003").severity is Severity.WARNING
    assert "T002" in rule_ids(lint_model(float_network(opset=13), TENSORRT))


def test_axes_as_an_input_are_misread_by_tensorrt_8():
    graph = GraphBuilder()
    axes = graph.constant("axes", np.array([2, 3]))
    graph.node("ReduceMean", "avgpool", graph.conv("conv1", "input", 4), axes, keepdims=1)
    model = graph.model("avgpool", opset=18)
    assert rule_ids(lint_model(model, JETPACK5)) == ["T001", "T004", "T003"]
    assert rule_ids(lint_model(model, TENSORRT)) == []


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("kernel", "options", "ids"),
    [
        (2, {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}, ["T005"]),
        (2, {"strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
        (2, {"strides": [2, 2], "ceil_mode": 1}, []),
        (3, {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}, []),
        (2, {"strides": [4, 4], "ceil_mode": 1}, ["T005"]),
        (2, {"strides": [3, 3], "ceil_mode": 1, "auto_pad": "SAME_UPPER"}, []),
    ],
)
def test_a_pool_window_behind_the_picture_stays_in_tensorrt(op, kernel, options, ids):
    """7 x 7: as TensorRT-RTX's parser and ONNX Runtime were seen to size them."""
    graph = GraphBuilder(size=7)
    model = graph.model(graph.node(op, "pool", "input", kernel_shape=[kernel] * 2, **options))
    assert rule_ids(lint_model(model, TENSORRT)) == ids
    assert set(rule_ids(lint_model(model, ONNX_RUNTIME))) <= {"T008"}


SCALES = ("", "scales")
FORMS = [
    ("MaxPool", (), {"kernel_shape": [2, 2], "dilations": [2, 2]}, ["T006"]),
    ("MaxPool", (), {"kernel_shape": [2, 2], "dilations": [1, 1]}, []),
    ("AveragePool", (), {"kernel_shape": [2, 2], "dilations": [2, 1]}, ["T006"]),
    ("LpPool", (), {"kernel_shape": [2, 2], "p": 3}, ["T006"]),
    ("LpPool", (), {"kernel_shape": [2, 2], "p": 1}, []),
    ("LRN", (), {"size": 4}, ["T006"]),
    ("LRN", (), {"size": 3}, []),
    ("GlobalLpPool", (), {"p": 1}, ["T007"]),
    ("GlobalLpPool", (), {}, []),
    ("Resize", SCALES, {"mode": "linear", "antialias": 1}, ["T006"]),
    ("Resize", SCALES, {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, ["T006"]),
    ("Resize", SCALES, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, []),
    ("Resize", SCALES, {"mode": "cubic", "exclude_outside": 1}, []),
]


@pytest.mark.parametrize(("op", "inputs", "options", "ids"), FORMS)
def test_forms_that_tensorrt_does_not_take(op, inputs, options, ids):
    graph = GraphBuilder()
    graph.constant("scales", np.array([1, 1, 2, 2], np.float32))
    model = graph.model(graph.node(op, "node", "input", *inputs, **options), opset=19)
    assert rule_ids(lint_model(model, TENSORRT)) == ids
    assert set(rule_ids(lint_model(model, ONNX_RUNTIME))) <= {"T008"}
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString()) == ("T006" not in ids)
    kinds = [network.get_layer(place).type.name for place in range(network.num_layers)]
    if op == "GlobalLpPool":  # a power, a sum, a root
        assert kinds == ["CONSTANT", "CONSTANT", "ELEMENTWISE", "REDUCE", "ELEMENTWISE"]


@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceL2"])
def test_reductions_whose_axes_openvino_does_not_read(kind):
    """tests/runtimes/openvino/test_misread_operators.py asks OpenVINO itself."""
    graph = GraphBuilder()
    model = graph.model(graph.node(kind, "norm", "input", axes=[1]))
    report = lint_model(model, ONNX_RUNTIME)
    if kind == "ReduceL2":
        assert rule_ids(report) == []
    else:
        finding = the_finding(report, "T008")
        assert (finding.severity, finding.places) == (Severity.WARNING, ("norm",))
    assert "T008" not in rule_ids(lint_model(model, TENSORRT))
    model.graph.node[0].ClearField("attribute")
    assert "T008" not in rule_ids(lint_model(model, ONNX_RUNTIME))


@pytest.mark.parametrize(
    ("op", "options", "told"),
    [
        ("LRN", {"size": 3, "bias": 1.5}, True),
        ("LRN", {"size": 3, "bias": 2.0}, False),
        ("Resize", {"mode": "linear", "antialias": 1}, True),
        ("Resize", {"mode": "cubic", "exclude_outside": 1}, True),
        ("Resize", {"mode": "cubic"}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}, True),
        ("AveragePool", {"kernel_shape": [3, 3], "ceil_mode": 1, "count_include_pad": 1}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "ceil_mode": 1}, False),
    ],
)
def test_what_openvino_does_not_hear_of(op, options, told):
    graph = GraphBuilder()
    scales = ("", graph.constant("scales", np.array([1, 1, 2, 2], np.float32))) if op == "Resize" else ()
    model = graph.model(graph.node(op, "node", "input", *scales, **options), opset=19)
    assert ("T008" in rule_ids(lint_model(model, ONNX_RUNTIME))) == told


@pytest.mark.parametrize(
    ("zero_point", "counts", "told"),
    [(np.uint8(128), 1, True), (np.int8(-128), 1, True), (np.uint8(0), 1, False), (np.uint8(128), 0, False)],
)
def test_padding_that_openvino_takes_for_a_level(zero_point, counts, told):
    """tests/runtimes/openvino/test_misread_levels.py asks OpenVINO itself."""
    graph = GraphBuilder()
    step = (graph.constant("scale", np.float32(0.1)), graph.constant("zero_point", zero_point))
    read = graph.node("DequantizeLinear", "d", graph.node("QuantizeLinear", "q", "input", *step), *step)
    model = graph.model(
        graph.node("AveragePool", "pool", read, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=counts)
    )
    report = lint_model(model, ONNX_RUNTIME)
    assert ("T008" in rule_ids(report)) == told
    if told:
        finding = the_finding(report, "T008")
        assert (finding.severity, finding.places) == (Severity.NOTE, ("pool",))
        assert "pad with level 0" in finding.message


@pytest.mark.parametrize(("opset", "axis", "told"), [(12, None, True), (12, -1, False), (13, 1, False)])
def test_an_old_softmax_is_told_of(opset, axis, told):
    graph = GraphBuilder()
    model = graph.model(
        graph.node("Softmax", "softmax", "input", **({} if axis is None else {"axis": axis})), opset=opset
    )
    report = lint_model(model, ONNX_RUNTIME)
    assert ("T008" in rule_ids(report)) == told
    if told:
        assert the_finding(report, "T008").severity is Severity.NOTE


@pytest.mark.parametrize(
    ("before", "value", "told"), [(None, 0.0, True), (None, None, True), ("Relu", 0.0, False), (None, -1.0, False)]
)
def test_a_pad_that_a_session_joins_with_a_pool(before, value, told):
    """tests/runtimes/ort/test_session.py asks ONNX Runtime itself."""
    graph = GraphBuilder()
    given = "input" if before is None else graph.node(before, "before", "input")
    pads = graph.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    values = () if value is None else (graph.constant("value", np.float32(value)),)
    padded = graph.node("Pad", "pad", given, pads, *values)
    model = graph.model(graph.node("MaxPool", "pool", padded, kernel_shape=[3, 3]))
    report = lint_model(model, ONNX_RUNTIME)
    assert [finding.places for finding in report.findings if finding.rule.id == "T009"] == [("pool",)] * told
    assert "T009" not in rule_ids(lint_model(model, TENSORRT))


@pytest.mark.parametrize(
    ("kind", "wide", "told"), [("MaxPool", 3, "T010"), ("AveragePool", 3, "T010"), ("AveragePool", 2, "")]
)
@pytest.mark.parametrize("before", [None, "Relu"])
def test_a_pad_as_wide_as_the_window(kind, wide, told, before):
    """tests/exporter/graph/test_joined_padding.py asks ONNX Runtime itself."""
    graph = GraphBuilder()
    given = "input" if before is None else graph.node(before, "before", "input")
    padded = graph.node("Pad", "pad", given, graph.constant("pads", np.array([0, 0, wide, wide] * 2)))
    model = graph.model(graph.node(kind, "pool", padded, kernel_shape=[3, 3]))
    report = lint_model(model, ONNX_RUNTIME)
    assert [finding.rule.id for finding in report.findings if finding.places == ("pool",)] == [told] * bool(told)
    if told:
        assert "does not open" in the_finding(report, told).message
    assert "T010" not in rule_ids(lint_model(model, TENSORRT))


def test_a_pad_that_no_session_joins_is_not_told():
    """Of a Pad that two read, or that is an output, ONNX Runtime leaves all as it is."""
    graph = GraphBuilder()
    padded = graph.node("Pad", "pad", "input", graph.constant("pads", np.array([0, 0, 1, 1] * 2)))
    model = graph.model(graph.node("MaxPool", "pool", padded, kernel_shape=[3, 3]), graph.node("Neg", "neg", padded))
    assert "T009" not in rule_ids(lint_model(model, ONNX_RUNTIME))


def test_indices_of_a_pool_are_refused_by_tensorrt():
    graph = GraphBuilder()
    model = graph.model(graph.node("MaxPool", "pool", "input", kernel_shape=[2, 2]))
    model.graph.node[0].output.append("indices")
    assert rule_ids(lint_model(model, TENSORRT)) == ["T006"]


def test_fixed_batch_dynamic_size_and_replaceable_weights():
    model = float_network()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = 1
    dims[2].dim_param = "height"
    assert rule_ids(lint_model(model, TENSORRT)) == ["I001", "I002"]
    model.graph.input.append(helper.make_tensor_value_info("conv1.weight", TensorProto.FLOAT, [4, 3, 3, 3]))
    report = lint_model(model, TENSORRT)
    assert the_finding(report, "I005").places == ("conv1.weight",)
    assert report.summary.inputs == {"input": [1, 3, "height", 8]}


def test_what_the_checker_says():
    model = float_network()
    model.graph.node[0].op_type = "NoSuchOperator"
    report = lint_model(model, TENSORRT)
    assert "NoSuchOperator" in the_finding(report, "I006").message


def loop(model):
    model.graph.node[0].input[0] = "fc"


def two_makers(model):
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def no_output(model):
    del model.graph.node[3].output[:]


def no_inputs(model):
    for node in model.graph.node:
        if node.op_type == "Add":
            del node.input[:]


def negative_size(model):
    model.graph.initializer[0].dims[:] = [-1]


@pytest.mark.parametrize("damage", [loop, two_makers, no_output, no_inputs, negative_size])
def test_a_graph_that_breaks_the_rules_of_onnx_is_told_not_followed(damage):
    model = residual_network(OURS)
    damage(model)
    report = lint_model(model, TENSORRT)
    assert "I006" in rule_ids(report)
    assert report.count(Severity.ERROR) >= 1


def test_operators_that_only_one_runtime_knows():
    model = residual_network(OURS)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(helper.make_node("Gelu", ["fc"], ["gelu"], name="gelu", domain="com.microsoft"))
    assert the_finding(lint_model(model, TENSORRT), "D003").severity is Severity.ERROR
    assert the_finding(lint_model(model, ONNX_RUNTIME), "D003").severity is Severity.NOTE


def batchnorm_network(*, training: bool = False) -> ModelProto:
    """One BatchNormalization behind a convolution, one behind a ReLU that a padding convolution follows."""
    graph = GraphBuilder()
    ones, zeros = np.ones(4, np.float32), np.full(4, 0.1, np.float32)
    tensor = graph.conv("conv1", "input", 4)
    for name in ("bn1", "bn2"):
        constants = [
            graph.constant(f"{name}.{word}", v) for word, v in zip("abcd", (ones, zeros, zeros, ones), strict=True)
        ]
        tensor = graph.node("BatchNormalization", name, tensor, *constants)
        graph.channels[tensor] = 4
        tensor = graph.node("Relu", f"{name}.relu", tensor)
    model = graph.model(graph.conv("conv2", tensor, 4), opset=17)
    if training:
        model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
        model.graph.node[1].output.extend(["mean", "variance"])
    return model


def test_batchnorm_that_folds_and_that_stays():
    from resnet_export.commands.lint import fold_check

    report = lint_model(batchnorm_network(), TENSORRT, fold_check=fold_check)
    assert the_finding(report, "B001").places == ("bn1",)
    kept = the_finding(report, "B002")
    assert kept.places == ("bn2",)
    assert "Relu 'bn1.relu', not from a convolution" in kept.message
    assert rule_ids(lint_model(batchnorm_network(training=True), TENSORRT, fold_check=fold_check))[0] == "B003"


# Names


def scoped(model: ModelProto) -> ModelProto:
    """Name nodes as torch.onnx.export does: numbers, with the module's path in the metadata."""
    copy = renamed(model, lambda place, node: f"node_{node.op_type.lower()}_{place}")
    for node, original in zip(copy.graph.node, model.graph.node, strict=True):
        words = ["", *(".".join(original.name.split(".")[: end + 1]) for end in range(original.name.count(".") + 1))]
        classes = ["torch.nn.modules.conv.Conv2d"] * (len(words) + 1)
        if node.op_type == "Add":
            words[-1:], classes[-2:] = [], ["torchvision.models.resnet.BasicBlock", "aten.add.Tensor"]
        for key, value in (("name_scopes", [*words, node.op_type]), ("class_hierarchy", classes[-len(words) - 1 :])):
            node.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=repr(value))
    return copy


def path_named(model: ModelProto) -> ModelProto:
    """Name nodes as the older exporter does: `/layer1/layer1.0/conv1/Conv`."""

    def name_of(place, node):
        words = node.name.split(".")
        modules = words if node.op_type != "Add" else words[:-1]
        path = [words[0]] if len(modules) > 1 else []
        path += [".".join(words[:2])] if len(modules) > 1 else []
        path += modules[2:] if len(modules) > 1 else modules
        return f"/{'/'.join(path)}/{node.op_type}"

    return renamed(model, name_of)


@pytest.mark.parametrize(
    "rename",
    [scoped, path_named, lambda model: renamed(model, lambda place, node: f"{node.op_type}_{place}")],
    ids=["metadata", "paths", "weights and blocks"],
)
def test_places_are_named_as_in_pytorch(rename):
    model = rename(residual_network(Style(main=True, integer_bias=True)))
    report = lint_model(model, TENSORRT)
    assert the_finding(report, "R001").places == ("layer1.0.add", "layer2.0.add")
    assert the_finding(report, "S004").places[:3] == ("conv1", "layer1.0.conv1", "layer1.0.conv2")


def test_nodes_without_names():
    model = renamed(residual_network(Style(main=True)), lambda place, node: "")
    assert the_finding(lint_model(model, TENSORRT), "R001").places == ("layer1.0.add", "layer2.0.add")


# A second source


@pytest.mark.tensorrt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(
    ("model", "clean"),
    [
        (residual_network(OURS), True),
        (residual_network(replace(OURS, weights="qdq")), True),
        (residual_network(replace(OURS, integer_bias=True)), False),
        (residual_network(replace(OURS, zero=np.int8(3))), False),
        (replaced(residual_network(OURS), "layer1.0.relu.scale", np.float32(0)), False),
        (replaced(residual_network(OURS), "layer1.0.relu.scale", np.float32(-1)), False),
    ],
    ids=["ours", "float weights behind q", "int32 bias", "zero point", "scale 0", "scale -1"],
)
def test_tensorrt_rtx_builds_what_has_no_error(model, clean):
    """UINT8 is not here: the parser takes it with a warning, and computes INT8."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parses = parser.parse(onnx.version_converter.convert_version(model, 20).SerializeToString())
    assert parses == clean
    assert (lint_model(model, TENSORRT).count(Severity.ERROR) == 0) == clean


# Documentation


def test_every_rule_is_documented():
    from pathlib import Path

    text = (Path(__file__).parents[3] / "docs" / "lint.md").read_text()
    for rule in all_rules():
        assert f"| {rule.id} | {rule.name} | {rule.severity.value} | {rule.summary} | {rule.remedy} |" in text


@pytest.mark.parametrize(
    ("target", "opset", "severity"),
    [
        ("onnxruntime", 20, None),
        ("onnxruntime", 25, Severity.NOTE),
        ("onnxruntime", 27, Severity.ERROR),
        ("tensorrt", 21, Severity.WARNING),
        ("tensorrt", 26, Severity.WARNING),
        ("tensorrt", 27, Severity.ERROR),
        ("jetpack7", 24, Severity.WARNING),
        ("jetpack7", 25, Severity.ERROR),
        ("jetpack6", 21, Severity.ERROR),
        ("jetpack5", 18, Severity.ERROR),
    ],
)
def test_an_opset_is_an_error_only_where_a_reader_refuses_it(target, opset, severity):
    model = float_network()
    model.opset_import[0].version = opset
    found = [one for one in lint_model(model, lint_target(TARGETS.named(target))).findings if one.rule.id == "T001"]
    assert [one.severity for one in found] == ([] if severity is None else [severity])


def test_what_the_installed_onnx_runtime_loads_is_no_error():
    """The limit of the target is what the library says of itself."""
    import onnxruntime as ort

    def loads(opset: int, ir_version: int) -> bool:
        model = float_network()
        model.opset_import[0].version, model.ir_version = opset, ir_version
        try:
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:
            return False
        return True

    assert loads(ONNX_RUNTIME.newest_opset, ONNX_RUNTIME.newest_ir_version)
    if ort.__version__.startswith("1.31."):
        assert not loads(ONNX_RUNTIME.newest_opset + 1, ONNX_RUNTIME.newest_ir_version)


def test_an_ir_version_that_onnx_runtime_refuses():
    model = float_network()
    model.ir_version = 99
    assert the_finding(lint_model(model, ONNX_RUNTIME), "T003").severity is Severity.ERROR
    assert the_finding(lint_model(model, TENSORRT), "T003").severity is Severity.NOTE


def test_a_batch_of_minus_one_is_not_fixed():
    for unknown in (-1, 0):
        model = float_network()
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = unknown
        assert "I001" not in rule_ids(lint_model(model, TENSORRT))


def test_what_draws_by_chance_is_named():
    graph = GraphBuilder(channels=3)
    constants = graph.constant("ratio", np.float32(0.5)), graph.constant("training", np.array(True))
    dropped = graph.node("Dropout", "drop", "input", *constants)
    graph.channels[dropped] = 3
    finding = the_finding(lint_model(graph.model(graph.gemm("fc", dropped, 4)), TENSORRT), "B004")
    assert finding.severity is Severity.ERROR
    assert finding.nodes == ("drop",)
    assert "Dropout in training mode" in finding.message


def test_metadata_that_an_editor_dropped():
    model = float_network()
    assert "I007" not in rule_ids(lint_model(model, TENSORRT)), "another tool's file never had it"
    model.producer_name = "resnet-export"
    assert "I007" in rule_ids(lint_model(model, TENSORRT))
    model.metadata_props.add(key="preprocessing", value="{}")
    assert "I007" not in rule_ids(lint_model(model, TENSORRT))
