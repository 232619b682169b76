"""take_offsets and give_offsets_back: the same levels without zero points, by onnx's own evaluator, and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect, ZeroPoints
from calibration.observers.observe_batches import observe_batches
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.qdq.offsets import METADATA_KEY, give_offsets_back, num_pads, num_zero_points, take_offsets
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import calibrate, table_of, tensors_to_observe
from exporter.engines.build import build_engine
from exporter.graph.onnx_graph import with_outputs
from exporter.passes.float16_qdq import float16_qdq_from_float32
from runtimes.ort.adapter import OrtRuntime
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.tensorrt_library import load_library

SEED = 20261129
BIASES, PADS = ZeroPoints.BIASES, ZeroPoints.PADS


def two_blocks(rectifier: str = "Relu", *, groups: int = 1, biased: bool = True) -> ModelProto:
    """Stem with MaxPool, a bottleneck with a projection, one without, and a classifier."""
    build = GraphBuilder(channels=3)
    limits = [build.constant("low", np.float32(0)), build.constant("high", np.float32(0.6))]

    def rectified(name: str, data: str) -> str:
        return build.node(rectifier, name, data, *(limits if rectifier == "Clip" else ()))

    rectified("relu", build.conv("stem", "input", 4))
    source = build.node("MaxPool", "pool", "relu", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in ("a", "b"):
        rectified(f"{block}.relu1", build.conv(f"{block}.conv1", source, 4, kernel=1))
        rectified(f"{block}.relu2", build.conv(f"{block}.conv2", f"{block}.relu1", 4))
        values = build.random.normal(0.2, 0.4, (8, 4 // groups, 1, 1)).astype(np.float32)
        weight = build.constant(f"{block}.conv3.weight", values)
        bias = [build.constant(f"{block}.conv3.bias", build.random.normal(0, 0.2, 8).astype(np.float32))]
        main = build.node("Conv", f"{block}.conv3", f"{block}.relu2", weight, *bias * biased, group=groups)
        build.channels[main] = 8
        shortcut = build.conv("a.downsample", source, 8, kernel=1) if block == "a" else source
        source = rectified(f"{block}.relu3", build.node("Add", f"{block}.add", main, shortcut))
    return build.model(build.gemm("fc", source, 5), opset=19)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(SEED).normal(0, 1, (count, 3, 8, 8)).astype(np.float32)


def table_with_zero_points(model: ModelProto, taken_by: ZeroPoints = BIASES) -> CalibrationTable:
    names = tensors_to_observe(place(model, Dialect.TENSORRT))
    seen = observe_batches(model, names, [images()], open_runtime=OrtRuntime)
    return table_of(model, seen, zero_points=taken_by)


def with_zero_points(model: ModelProto, *keep_float: str, taken_by: ZeroPoints = BIASES) -> ModelProto:
    return insert_qdq(model, table_with_zero_points(model, taken_by), keep_float=keep_float).model


def taken(model: ModelProto, quantized: ModelProto) -> ModelProto:
    return take_offsets(quantized, model)


def zero_points(model: ModelProto) -> set[tuple[str, int]]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {(str(constants[node.input[2]].dtype), int(constants[node.input[2]])) for node in pairs}


def levels(model: ModelProto) -> dict[str, np.ndarray]:
    """Return every level and the output, levels counted from the lowest; not those of a Pad that was added."""
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [node.output[0] for node in nodes if not node.input[0].endswith(".padded")]
    found = ReferenceEvaluator(with_outputs(model, names)).run(None, {"input": images()})
    outputs = [info.name for info in model.graph.output] + names
    return {
        name: values.astype(np.int64) + 128 * (values.dtype == np.int8) if values.dtype != np.float32 else values
        for name, values in zip(outputs, found, strict=True)
    }


def assert_same_levels(one: ModelProto, other: ModelProto, *, tolerance: float = 1e-4) -> None:
    before, after = levels(one), levels(other)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        if expected.dtype == np.float32:
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=tolerance * np.abs(expected).max())
        else:
            np.testing.assert_array_equal(after[name], expected, err_msg=name)


@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("taken_by", "rectified"), [(BIASES, {"a.relu1", "b.relu1", "b.relu3"}), (PADS, {"b.relu3"})])
def test_the_levels_stay(rectifier, groups, biased, taken_by, rectified) -> None:
    model = two_blocks(rectifier, groups=groups, biased=biased)
    quantized = with_zero_points(model, taken_by=taken_by)
    result = taken(model, quantized)
    assert len(zero_points(quantized)) > 1
    assert zero_points(result) == {("int8", 0)}
    left = {node.name for node in result.graph.node if node.op_type == rectifier}
    assert left == rectified, "where levels end at 0, nothing else cuts there"
    assert num_pads(result) == (0 if taken_by is BIASES else 2)
    onnx.checker.check_model(result, full_check=True)
    assert_same_levels(quantized, result)


def padded_layers(pads: tuple[tuple[int, ...], ...], *, stride: int = 1, rectified: bool = True) -> ModelProto:
    """A stem that depthwise layers read, each with its own padding, and the sum of what they give."""
    build = GraphBuilder(channels=3)
    source = build.conv("stem", "input", 4)
    if rectified:
        source = build.node("Relu", "relu", source)
    sums = []
    for number, around in enumerate(pads):
        weight = build.constant(f"w{number}", build.random.normal(0.3, 0.4, (4, 1, 3, 3)).astype(np.float32))
        name = build.node("Conv", f"depthwise{number}", source, weight, pads=around, strides=[stride] * 2, group=4)
        pooled = build.node("GlobalMaxPool", f"pool{number}", name)
        build.channels[pooled] = 4
        sums.append(build.conv(f"point{number}", pooled, 4, kernel=1))
    total = sums[0]
    for number, other in enumerate(sums[1:]):
        total = build.node("Add", f"add{number}", total, other)
    return build.model(build.gemm("fc", total, 5), opset=19)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [((1, 1, 1, 1),), ((0, 1, 2, 0), (2, 2, 2, 2)), ((1, 1, 1, 1), (0, 0, 0, 0))])
def test_every_layer_has_a_pad_of_its_own_width(pads, stride) -> None:
    model = padded_layers(pads, stride=stride)
    quantized = with_zero_points(model, taken_by=PADS)
    result = taken(model, quantized)
    assert num_pads(result) == sum(any(around) for around in pads)
    assert zero_points(result) == {("int8", 0)}
    onnx.checker.check_model(result, full_check=True)
    assert_same_levels(quantized, result)
    assert_same_levels(quantized, give_offsets_back(result, model))


def test_where_the_level_of_zero_is_that_of_int8_layers_pad_by_themselves() -> None:
    model = padded_layers(((1, 1, 1, 1), (2, 0, 0, 1)), rectified=False)
    table = table_with_zero_points(model, PADS)
    centered = replace(table.ranges["stem"], zero_point=128)
    quantized = insert_qdq(model, replace(table, ranges={**table.ranges, "stem": centered})).model
    result = taken(model, quantized)
    assert num_pads(result) == 0
    assert json.loads(next(entry.value for entry in result.metadata_props if entry.key == METADATA_KEY))["stem"] == 128
    assert_same_levels(quantized, result)
    assert_same_levels(quantized, give_offsets_back(result, model))


@pytest.mark.tensorrt
def test_tensorrt_rtx_needs_no_layer_more_for_a_pad(tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    model, path, found = two_blocks(), tmp_path / "model.onnx", []
    for taken_by in (BIASES, PADS):
        onnx.save(taken(model, with_zero_points(model, taken_by=taken_by)), path)
        build_engine(path, flavor="rtx")
        found.append(layers_from_log(load_library("rtx").log.layer_list))
    kinds = [[layer["LayerType"] for layer in layers] for layers in found]
    assert kinds[0] == kinds[1]
    for layers in found:
        products = [layer for layer in layers if layer["LayerType"] in ("correlation", "gemm")]
        assert len(products) == 9, "8 convolutions and the classifier"
        assert {layer["Inputs"][0]["Datatype"] for layer in products} == {"Int8"}


def test_what_is_padded_is_at_the_level_of_zero() -> None:
    model = padded_layers(((1, 1, 1, 1),))
    result = taken(model, with_zero_points(model, taken_by=PADS))
    (around,) = ReferenceEvaluator(with_outputs(result, ["depthwise0.padded.quantized"])).run(
        ["depthwise0.padded.quantized"], {"input": images()}
    )
    assert around.shape[2:] == (10, 10)
    assert set(np.unique(around[:, :, 0])) == set(np.unique(around[:, :, :, -1])) == {-128}


def test_the_step_is_half_as_wide() -> None:
    model = two_blocks()
    symmetric = calibrate(model, [images()], open_runtime=OrtRuntime)
    finer = table_with_zero_points(model)
    for name in ("pool", "a.relu2", "a.relu3", "b.relu2"):
        assert finer.ranges[name].scale == pytest.approx(symmetric.ranges[name].scale * 127 / 255, rel=0.02)
    assert finer.ranges["a.relu1"] == symmetric.ranges["a.relu1"], "a padded layer reads it"


@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
@pytest.mark.parametrize("kept", ["a.conv1", "a.conv2", "b.conv1", "b.conv3", "a.downsample", "b.add"])
@pytest.mark.parametrize("taken_by", [BIASES, PADS])
def test_a_layer_in_float_reads_the_shifted_values(rectifier, kept, taken_by) -> None:
    model = two_blocks(rectifier)
    quantized = with_zero_points(model, kept, taken_by=taken_by)
    assert_same_levels(quantized, taken(model, quantized))


@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
@pytest.mark.parametrize("kept", [(), ("b.conv1",), ("b.conv2",)])
@pytest.mark.parametrize("taken_by", [BIASES, PADS])
def test_the_way_back(rectifier, kept, taken_by) -> None:
    model = two_blocks(rectifier)
    quantized = with_zero_points(model, *kept, taken_by=taken_by)
    result = give_offsets_back(taken(model, quantized), model)
    assert zero_points(result) == zero_points(quantized)
    assert [(node.name, node.op_type) for node in result.graph.node] == [
        (node.name, node.op_type) for node in quantized.graph.node
    ]
    assert not result.metadata_props
    onnx.checker.check_model(result, full_check=True)
    assert_same_levels(quantized, result)


@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
@pytest.mark.parametrize("kept", [(), ("b.conv1",), ("b.conv2",), ("a.conv3", "b.add")])
@pytest.mark.parametrize("taken_by", [BIASES, PADS])
def test_float16_takes_the_offsets_of_its_rounded_scales(rectifier, kept, taken_by) -> None:
    model = two_blocks(rectifier)
    typed = float16_qdq_from_float32(with_zero_points(model, *kept, taken_by=taken_by)).model
    result = taken(model, typed)
    assert zero_points(result) == {("int8", 0)}
    onnx.checker.check_model(result, full_check=True)
    types = [{tensor.name: tensor.data_type for tensor in each.graph.initializer} for each in (typed, result)]
    assert types[1]["a.conv3.bias"] == types[0]["a.conv3.bias"] == TensorProto.FLOAT16
    with OrtRuntime(typed, exact_qdq=True) as first, OrtRuntime(result, exact_qdq=True) as second:
        expected, got = (next(iter(each.run({"input": images()}).values())) for each in (first, second))
    assert np.abs(got - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_file_without_them_is_itself() -> None:
    model = two_blocks()
    symmetric = insert_qdq(model, calibrate(model, [images()], open_runtime=OrtRuntime)).model
    assert taken(model, symmetric) is symmetric
    assert give_offsets_back(symmetric, model) is symmetric


@pytest.mark.parametrize(
    "value", ["", "[]", "{", '{"nothing": 0}', '{"pool": 256}', '{"pool": "0"}', '{"pool": null}', '{"a.relu1": 0}']
)
def test_metadata_of_another_model_are_refused(value) -> None:
    model = two_blocks()
    result = taken(model, with_zero_points(model))
    entry = next(entry for entry in result.metadata_props if entry.key == METADATA_KEY)
    assert json.loads(entry.value)["pool"] == 0
    entry.value = value
    with pytest.raises(CalibrationError, match=r"zero_points.* do not fit"):
        give_offsets_back(result, model)


def test_unsigned_ranges_where_no_bias_can_take_them_are_refused() -> None:
    model = two_blocks()
    table = table_with_zero_points(model)
    wrong = {**table.ranges, "b.relu3": table.ranges["a.relu2"]}
    with pytest.raises(CalibrationError, match=r"'b\.relu3' is uint8"):
        insert_qdq(model, CalibrationTable(wrong, table.method, 1, (), ()))


def loud(largest: float) -> ModelProto:
    """Two layers and a classifier: what the second reads reaches `largest`, and all of it fits FP16."""
    build = GraphBuilder(channels=3)
    build.node("Relu", "first.relu", build.conv("first", "input", 8))
    build.node("Relu", "second.relu", build.conv("second", "first.relu", 8, kernel=1))
    model = build.model(build.gemm("fc", "second.relu", 5), opset=19)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, factor in (("first.weight", largest), ("first.bias", largest), ("second.weight", 3.0)):
        values = (numpy_helper.to_array(weights[name]) * factor).astype(np.float32)
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    return model


def test_float16_ends_before_a_bias_so_the_tensor_is_symmetric() -> None:
    model = loud(5000)
    quantized = with_zero_points(model)
    typed = float16_qdq_from_float32(quantized).model
    result = taken(model, typed)
    assert num_zero_points(taken(model, quantized)) == 1
    assert num_zero_points(result) == 0
    assert zero_points(result) == {("int8", 0)}
    onnx.checker.check_model(result, full_check=True)
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in result.graph.initializer)
    with OrtRuntime(model) as first, OrtRuntime(result, exact_qdq=True) as second:
        expected, got = (next(iter(each.run({"input": images()}).values())) for each in (first, second))
    assert np.square(got - expected).mean() < 1e-3 * np.square(expected).mean()
    assert num_zero_points(taken(loud(50), float16_qdq_from_float32(with_zero_points(loud(50))).model)) == 1


@pytest.mark.parametrize("gain", [1e-6, 1e-20, 0.0])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_a_plain_session_has_room_for_the_offset_of_a_dead_channel(gain, block) -> None:
    build = GraphBuilder(channels=3)
    build.node("Relu", "first.relu", build.conv("first", "input", 8))
    source = build.conv("second", "first.relu", 8, kernel=1)
    if block == "residual":
        source = build.node("Add", "add", source, "first.relu")
    model = build.model(build.gemm("fc", build.node("Relu", "second.relu", source), 5), opset=19)
    for tensor in model.graph.initializer:
        if tensor.name in ("first.weight", "first.bias"):
            values = numpy_helper.to_array(tensor).copy()
            values[2] *= gain
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    quantized = with_zero_points(model)
    result = taken(model, quantized)
    assert_same_levels(quantized, result)
    with OrtRuntime(result) as plain, OrtRuntime(result, exact_qdq=True) as written:
        got, expected = (next(iter(each.run({"input": images()}).values())) for each in (plain, written))
    assert np.square(got - expected).mean() < 1e-3 * np.square(expected).mean()


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_layers_that_share_a_dead_channel_have_room_both(factor) -> None:
    build = GraphBuilder(channels=3)
    values = build.random.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
    values[2] = 0
    shared = build.constant("shared.weight", values)
    source = build.node("Relu", "first.relu", build.conv("first", "input", 8))
    for name in ("second", "third"):
        source = build.node("Relu", f"{name}.relu", build.conv(name, source, 8, kernel=1, weight=shared))
    source = build.conv("fourth", source, 8, kernel=1)
    model = build.model(build.gemm("fc", source, 5), opset=19)
    for tensor in model.graph.initializer:
        if tensor.name == "second.bias":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    result = taken(model, with_zero_points(model))
    assert num_zero_points(result) == 3
    constants = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in result.graph.initializer}
    for name, data in (("second", "first.relu"), ("third", "second.relu")):
        steps = constants[f"{name}.bias"] / (constants[f"{data}.scale"] * constants["shared.weight.scale"])
        assert np.abs(steps).max() < 2**31
