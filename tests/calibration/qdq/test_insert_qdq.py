"""insert_qdq: what the Q/DQ file looks like, and that it computes what it says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder, make_resnet8
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.errors import CalibrationError, PlacementError
from calibration.methods.builtin_methods import Max
from calibration.placement.for_tensorrt import place_qdq
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from calibration.ranges.collect_ranges import calibrate
from exporter.passes.convert_opset import convert_opset
from runtimes.ort.adapter import OrtRuntime

SEED = 20260105


def table_of(ranges: dict[str, float]) -> CalibrationTable:
    return CalibrationTable(
        ranges={name: TensorRange(amax, float(np.float32(amax / 127)), amax) for name, amax in ranges.items()},
        method={"name": "max"},
        num_images=1,
        input_mean=(),
        input_std=(),
    )


def table_for(model: ModelProto, amax: float = 127.0) -> CalibrationTable:
    return table_of(dict.fromkeys(place_qdq(model).activations, amax))


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def attributes(node: NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def nodes_of(model: ModelProto, *ops: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in ops]


def run(model: ModelProto, images: np.ndarray, *, exact_qdq: bool = True) -> dict[str, np.ndarray]:
    with OrtRuntime(model, exact_qdq=exact_qdq) as runtime:
        return runtime.run({"input": images})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(16, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module", params=[17, 20])
def pair(request, images):
    """A ResNet-8 as exported, and quantized from its own ranges."""
    model = convert_opset(make_resnet8(), request.param)
    table = calibrate(model, [images], open_runtime=OrtRuntime, method=Max())
    before = model.SerializeToString(deterministic=True)
    quantized = insert_qdq(model, table)
    assert model.SerializeToString(deterministic=True) == before, "the float model is not changed"
    return model, table, quantized


def test_passes_the_checker_and_keeps_opset_inputs_and_outputs(pair):
    model, _, quantized = pair
    onnx.checker.check_model(quantized.model, full_check=True)
    assert quantized.model.opset_import == model.opset_import
    assert quantized.model.ir_version == model.ir_version
    assert list(quantized.model.graph.input) == list(model.graph.input)
    assert list(quantized.model.graph.output) == list(model.graph.output)


def test_layers_keep_their_names_and_order(pair):
    model, _, quantized = pair
    kept = [node for node in quantized.model.graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert [(node.name, node.op_type, list(node.output)) for node in kept] == [
        (node.name, node.op_type, list(node.output)) for node in model.graph.node
    ]
    assert [attributes(node) for node in kept] == [attributes(node) for node in model.graph.node]


def test_every_residual_add_has_one_quantized_operand_and_it_is_the_shortcut(pair):
    model, _, quantized = pair
    made_by = producers(quantized.model)
    adds = nodes_of(quantized.model, "Add")
    assert len(adds) == len(quantized.placement.residual_adds) == 3
    for add in adds:
        kinds = [made_by[name].op_type for name in add.input]
        assert sorted(kinds) == ["Conv", "DequantizeLinear"]
        assert add.input[kinds.index("Conv")] == f"{add.name.removesuffix('.add')}.conv2"
    shared = [node for node in quantized.model.graph.node if "relu.dequantized" in node.input]
    assert [node.name for node in shared] == ["layer1.0.conv1", "layer1.0.add"], "an identity shortcut shares the pair"
    assert len(model.graph.node) + 2 * 10 + 10 == len(quantized.model.graph.node)


def test_main_path_convolutions_are_read_by_nothing_but_their_relu_or_add(pair):
    _, _, quantized = pair
    made_by = producers(quantized.model)
    behind = [
        made_by[node.input[0]].name for node in nodes_of(quantized.model, "QuantizeLinear") if node.input[0] in made_by
    ]
    convs = {name for name in behind if made_by[name].op_type in ("Conv", "Gemm")}
    assert convs == {"layer2.0.downsample.0", "layer3.0.downsample.0"}


def test_pairs_are_what_every_engine_reads(pair):
    """Three inputs, float32 scale > 0, INT8 zero point of zeros of the same shape; nothing unsigned, no INT32 bias."""
    _, table, quantized = pair
    values = constants(quantized.model)
    assert {array.dtype.name for array in values.values()} == {"float32", "int8"}
    for node in nodes_of(quantized.model, "QuantizeLinear", "DequantizeLinear"):
        assert len(node.input) == 3
        scale, zero_point = values[node.input[1]], values[node.input[2]]
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert zero_point.dtype == np.int8
        assert zero_point.shape == scale.shape
        assert not zero_point.any()
    for tensor, kept in table.ranges.items():
        quantize = producers(quantized.model)[f"{tensor}.quantized"]
        dequantize = producers(quantized.model)[f"{tensor}.dequantized"]
        assert quantize.input[0] == tensor
        assert dequantize.input[0] == f"{tensor}.quantized"
        assert list(quantize.input[1:]) == list(dequantize.input[1:]), "one scale for both"
        assert values[quantize.input[1]].shape == ()
        assert values[quantize.input[1]] == np.float32(kept.scale)
        assert not attributes(quantize)
        assert not attributes(dequantize)


def test_weights_are_int8_behind_a_dq_along_the_output_channels(pair):
    model, _, quantized = pair
    before, after = constants(model), constants(quantized.model)
    made_by = producers(quantized.model)
    layers = nodes_of(quantized.model, "Conv", "Gemm")
    assert len(layers) == 10
    for layer in layers:
        dequantize = made_by[layer.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert dequantize.input[0] == f"{layer.name}.weight"
        assert attributes(dequantize) == {"axis": 0}
        weight, scale = after[dequantize.input[0]], after[dequantize.input[1]]
        assert weight.dtype == np.int8
        original = before[f"{layer.name}.weight"]
        assert weight.shape == original.shape
        assert scale.shape == (len(weight),)
        step = scale.reshape(-1, *[1] * (weight.ndim - 1))
        assert (np.abs(weight * step - original) <= step * 0.501).all()
        assert made_by[layer.input[0]].op_type == "DequantizeLinear"
        bias = layer.input[2]
        assert after[bias].dtype == np.float32
        assert np.array_equal(after[bias], before[bias])


def test_the_file_is_about_a_quarter(pair):
    model, _, quantized = pair
    assert quantized.model.ByteSize() < 0.32 * model.ByteSize()  # of 75 thousand weights; names weigh at this size


@pytest.mark.parametrize("exact_qdq", [True, False])
def test_runs_in_onnx_runtime_and_answers_like_the_float_model(pair, images, exact_qdq):
    model, _, quantized = pair
    expected = run(model, images)["logits"].astype(np.float64)
    got = run(quantized.model, images, exact_qdq=exact_qdq)["logits"]
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 25
    assert not np.array_equal(got, expected)


@pytest.mark.tensorrt
def test_tensorrt_rtx_builds_it(pair, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX builder is not installed")
    from exporter.engines.build import build_engine
    from exporter.engines.build_options import BuildOptions
    from runtimes.bundle.manifest import BatchRange

    _, _, quantized = pair
    path = tmp_path / "model.int8.onnx"
    onnx.save(quantized.model, path)
    assert len(build_engine(path, options=BuildOptions(batch=BatchRange(1, 2, 2)), flavor="rtx")) > 1000


# Arithmetic. Every scale is a power of two and every constant a multiple of one, so that all sums are exact in
# float32 whatever their order: the three ways to compute it must be equal bit for bit.

WEIGHT_STEP, INPUT_STEP, HIDDEN_STEP = 2.0**-7, 2.0**-4, 2.0**-3


def exact_net() -> tuple[ModelProto, CalibrationTable, dict[str, np.ndarray]]:
    rng = np.random.default_rng(SEED)
    weights = {}
    for name in ("conv1", "conv2"):
        weight = rng.integers(-126, 127, (3, 3, 3, 3)) + rng.uniform(-0.4, 0.4, (3, 3, 3, 3))
        weight[:, 0, 0, 0] = [127, -127, 127]  # fixes the scale of every channel
        weights[name] = (weight * WEIGHT_STEP).astype(np.float32)
    graph = GraphBuilder(channels=3, size=6)
    for name, weight in weights.items():
        graph.constant(f"{name}.weight", weight)
    conv1 = graph.conv("conv1", "input", 3, weight="conv1.weight")
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", conv1), 3, weight="conv2.weight")
    out = graph.node("Relu", "out", graph.node("Add", "add", "input", conv2))
    for name in list(weights):
        weights[f"{name}.bias"] = (rng.integers(-64, 64, 3) * 2.0**-5).astype(np.float32)
        graph.constant(f"{name}.bias", weights[f"{name}.bias"])
    table = table_of({"input": 127 * INPUT_STEP, "relu": 127 * HIDDEN_STEP})
    return graph.model(out, opset=20), table, weights  # the reference evaluator begins at opset 19


def fake_quantized(values: np.ndarray, step: float) -> np.ndarray:
    return np.clip(np.rint(values.astype(np.float64) / step), -128, 127) * step


def convolved(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3, stride 1, zero padding 1; float64."""
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = values.shape[2:]
    total = np.zeros((len(values), len(weight), height, width)) + bias.reshape(1, -1, 1, 1)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + height, column : column + width]
            total += np.einsum("nchw,oc->nohw", window, weight[:, :, row, column])
    return total


def test_equals_fake_quantization_by_hand_and_the_reference_evaluator():
    model, table, weights = exact_net()
    images = (np.random.default_rng(SEED + 1).normal(size=(4, 3, 6, 6)) * 5).astype(np.float32)
    images[0, 0, 0, :4] = [0.5 * INPUT_STEP, 1.5 * INPUT_STEP, 99.0, -99.0]  # halves and both clips
    x = fake_quantized(images, INPUT_STEP)
    hidden = convolved(x, fake_quantized(weights["conv1"], WEIGHT_STEP), weights["conv1.bias"])
    hidden = fake_quantized(np.maximum(hidden, 0), HIDDEN_STEP)
    main = convolved(hidden, fake_quantized(weights["conv2"], WEIGHT_STEP), weights["conv2.bias"])
    expected = np.maximum(main + x, 0).astype(np.float32)
    assert x.min() == -128 * INPUT_STEP
    assert x.max() == 127 * INPUT_STEP
    assert hidden.max() == 127 * HIDDEN_STEP
    assert (hidden < 127 * HIDDEN_STEP).mean() > 0.5

    quantized = insert_qdq(model, table).model
    assert np.array_equal(run(quantized, images)["out"], expected)
    assert np.array_equal(ReferenceEvaluator(quantized).run(None, {"input": images})[0], expected)


def test_a_quantized_tensor_that_is_an_output_stays_float_there():
    """The input's coarse step rounds it to zero, so conv1 gives its bias; a step of relu would clip that to 0.01."""
    graph = GraphBuilder()
    relu = graph.node("Relu", "relu", graph.conv("conv1", "input", 2))
    bias = np.array([0.5, -0.5], np.float32)
    graph.constant("conv1.bias", bias)
    model = graph.model(graph.conv("conv2", relu, 2), relu)
    quantized = insert_qdq(model, table_of({"input": 1e6, "relu": 0.01})).model
    assert [info.name for info in quantized.graph.output] == ["conv2", "relu"]
    images = np.random.default_rng(SEED).normal(size=(2, 2, 8, 8)).astype(np.float32)
    expected = np.broadcast_to(np.maximum(bias, 0).reshape(1, 2, 1, 1), (2, 2, 8, 8))
    assert np.array_equal(run(quantized, images)["relu"], expected)


def test_other_readers_keep_the_float_tensor():
    """MaxPool, Sigmoid and an unmatched Add read what they read before; only the layers read the rounded copy."""
    graph = GraphBuilder()
    x = graph.node("Relu", "x", "input")
    conv = graph.conv("conv", x, 2)
    sigmoid = graph.node("Sigmoid", "sigmoid", x)
    pool = graph.node("MaxPool", "pool", x, kernel_shape=[1, 1])
    both = graph.node("Add", "both", sigmoid, x)
    model = graph.model(conv, sigmoid, pool, both)
    quantized = insert_qdq(model, table_of({"x": 0.1})).model
    images = np.random.default_rng(SEED).normal(size=(2, 2, 8, 8)).astype(np.float32)
    before, after = run(model, images), run(quantized, images)
    for name in ("sigmoid", "pool", "both"):
        assert np.array_equal(before[name], after[name]), name
    assert not np.array_equal(before["conv"], after["conv"])
    assert [node.name for node in quantized.graph.node if "x.dequantized" in node.input] == ["conv"]


def test_a_shared_weight_is_stored_once_and_read_by_both():
    graph = GraphBuilder()
    weight = graph.constant("w", graph.random.normal(size=(2, 2, 3, 3)).astype(np.float32))
    model = graph.model(graph.conv("conv2", graph.conv("conv1", "input", 2, weight=weight), 2, weight=weight))
    quantized = insert_qdq(model, table_for(model)).model
    assert [node.name for node in nodes_of(quantized, "DequantizeLinear") if node.input[0] == "w"] == ["w.dequantized"]
    assert [node.input[1] for node in nodes_of(quantized, "Conv")] == ["w.dequantized", "w.dequantized"]


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_scales_lie_along_the_output_channels(trans_b):
    graph = GraphBuilder(channels=3)
    model = graph.model(graph.gemm("fc", "input", 5, transB=trans_b))
    quantized = insert_qdq(model, table_for(model)).model
    dequantize = producers(quantized)["fc.weight.dequantized"]
    assert attributes(dequantize) == {"axis": 1 - trans_b}
    assert constants(quantized)["fc.weight.scale"].shape == (5,)
    onnx.checker.check_model(quantized, full_check=True)


def test_a_layer_that_cannot_be_quantized_keeps_its_float_weight():
    graph = GraphBuilder()
    weight = graph.constant("w", np.full((2, 2, 1, 1), 0.3, np.float32))
    kept = graph.conv("kept", "input", 2, kernel=1, weight=weight)
    graph.node("Relu", "other", weight)
    model = graph.model(graph.conv("conv", kept, 2), "other")
    quantized = insert_qdq(model, table_for(model))
    assert constants(quantized.model)["w"].dtype == np.float32
    assert list(producers(quantized.model)["kept"].input[:2]) == ["input", "w"]
    assert quantized.placement.skipped == ("kept: its weight 'w' is also used in another way",)


def test_a_dead_channel_is_zero_behind_its_dq():
    graph = GraphBuilder()
    weight = graph.random.normal(size=(2, 2, 1, 1)).astype(np.float32)
    weight[1] = 0
    model = graph.model(graph.conv("conv", "input", 2, kernel=1, weight=graph.constant("w", weight)))
    out = run(insert_qdq(model, table_for(model)).model, np.ones((1, 2, 8, 8), np.float32))["conv"]
    assert np.array_equal(out[0, 1], np.full((8, 8), numpy_helper.to_array(graph.initializers["conv.bias"])[1]))


@pytest.mark.parametrize("opset", [13, 17, 19, 20])
def test_every_opset_that_is_written(opset):
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv2", graph.conv("conv1", "input", 2), 2), opset=opset)
    quantized = insert_qdq(model, table_for(model)).model
    assert quantized.opset_import[0].version == opset
    assert run(quantized, np.ones((1, 2, 8, 8), np.float32))["conv2"].shape == (1, 2, 8, 8)


def test_a_table_of_another_model_is_refused():
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv2", graph.conv("conv1", "input", 2), 2))
    with pytest.raises(PlacementError, match="lacks 1 of 2 tensors, first 'conv1'; it was made for another model"):
        insert_qdq(model, table_of({"input": 1.0, "elsewhere": 1.0}))


def test_a_table_may_hold_more_than_is_needed():
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv1", "input", 2))
    quantized = insert_qdq(model, table_of({"input": 1.0, "elsewhere": 1.0})).model
    assert not any("elsewhere" in name for name in constants(quantized))


def test_a_second_insertion_is_refused():
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv1", "input", 2))
    table = table_for(model)
    with pytest.raises(PlacementError, match="already holds Q/DQ"):
        insert_qdq(insert_qdq(model, table).model, table)


@pytest.mark.parametrize(
    "taken", ["input.scale", "input.quantized", "w.dequantized", "w.scale", "zero_point", "zero_point.2"]
)
def test_names_that_are_taken_are_refused(taken):
    """A constant of that name would otherwise be read as the scale or the zero point."""
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    offset = graph.constant(taken, np.ones((), np.float32))
    model = graph.model(graph.node("Add", "add", graph.conv("conv", "input", 2, kernel=1, weight=weight), offset))
    with pytest.raises(PlacementError, match=f"'{taken}' is needed for Q/DQ"):
        insert_qdq(model, table_for(model))


def test_a_weight_of_nan_is_named():
    graph = GraphBuilder()
    weight = graph.constant("layer1.weight", np.full((2, 2, 1, 1), np.nan, np.float32))
    model = graph.model(graph.conv("conv", "input", 2, kernel=1, weight=weight))
    with pytest.raises(CalibrationError, match=r"'layer1\.weight'.*NaN or Inf"):
        insert_qdq(model, table_for(model))


def test_a_model_without_layers_is_returned_as_it_is():
    graph = GraphBuilder()
    model = graph.model(graph.node("Relu", "relu", "input"))
    result = insert_qdq(model, table_of({}))
    assert result.placement.activations == {}
    assert list(result.model.graph.node) == list(model.graph.node)
    assert result.model is not model


def test_no_tensor_is_unsigned():
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv", graph.node("Relu", "relu", "input"), 2))
    quantized = insert_qdq(model, table_for(model)).model
    kinds = {info.type.tensor_type.elem_type for info in quantized.graph.value_info}
    assert kinds == {TensorProto.FLOAT, TensorProto.INT8}
