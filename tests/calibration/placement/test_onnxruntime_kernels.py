"""The dialect for ONNX Runtime, proven by ONNX Runtime: which kernels it makes of the file, and what they answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder, export_random
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.errors import CalibrationError, PlacementError
from calibration.methods.dialect import Dialect
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from calibration.ranges.collect_ranges import calibrate
from exporter.networks.cifar_resnet import CifarResNet
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import PRECISE_OPTION

SEED = 20261123
ROOT = Path(__file__).parents[3]

INTEGER = {
    "Conv": "QLinearConv",
    "Add": "QLinearAdd",
    "Mul": "QLinearMul",
    "Concat": "QLinearConcat",
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "AveragePool": "QLinearAveragePool",
    "Sigmoid": "QLinearSigmoid",
    "Gemm": "QGemm",
}
FLOAT = {"Conv", "FusedConv", "Gemm", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "DequantizeLinear"}


def optimized(model: ModelProto, folder: Path, *, precise: bool = False) -> ModelProto:
    """Return the graph that ONNX Runtime's default session runs on this CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it warns that the file is for this machine only
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    if precise:
        options.add_session_config_entry(*PRECISE_OPTION)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def kernels(model: ModelProto, folder: Path, *, precise: bool = False) -> Counter[str]:
    return Counter(node.op_type for node in optimized(model, folder, precise=precise).graph.node)


def quantized_from(model: ModelProto, images: np.ndarray) -> ModelProto:
    table = calibrate(model, [images], open_runtime=OrtRuntime, dialect=Dialect.ONNXRUNTIME)
    return insert_qdq(model, table).model


def unsigned(scale: float, zero_point: int = 0) -> TensorRange:
    return TensorRange(255 * scale, scale, 255 * scale, zero_point, "uint8")


def table_of(ranges: dict[str, TensorRange]) -> CalibrationTable:
    return CalibrationTable(ranges, {"name": "max"}, 1, (), (), dialect=Dialect.ONNXRUNTIME)


def table_for(model: ModelProto) -> CalibrationTable:
    return table_of(dict.fromkeys(place(model, Dialect.ONNXRUNTIME).activations, unsigned(2**-5, 128)))


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def nodes_of(model: ModelProto, *ops: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in ops]


def images_of(size: int, *, seed: int = SEED, channels: int = 3, batch: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, channels, size, size)).astype(np.float32)


def signal_to_noise(reference: np.ndarray, got: np.ndarray) -> float:
    expected = reference.astype(np.float64)
    return float(10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()))


# Whole networks: every Conv, Add, pool and the Gemm in integers, nothing else left.


def torchvision_resnet(block: str, depths: list[int]):
    """Without the fourth stage, which has three quarters of the weights and no kernel of its own."""
    from torch import nn
    from torchvision.models import resnet

    network = resnet.ResNet(getattr(resnet, block), depths)
    network.layer4, network.fc = nn.Identity(), nn.Linear(network.fc.in_features // 2, 10)
    return network


NETWORKS = {
    "basic blocks": (lambda: torchvision_resnet("BasicBlock", [2, 1, 1, 1]), 64),
    "bottlenecks": (lambda: torchvision_resnet("Bottleneck", [2, 1, 1, 1]), 64),
    "cifar": (lambda: CifarResNet(8), 32),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name == "basic blocks" else ()) for name in NETWORKS],
)
def network(request) -> tuple[ModelProto, ModelProto, np.ndarray]:
    import torch

    torch.manual_seed(SEED)
    make, size = NETWORKS[request.param]
    model = export_random(make(), size=size)
    return model, quantized_from(model, images_of(size)), images_of(size, seed=SEED + 1)


@pytest.mark.parametrize("precise", [False, True])
def test_every_layer_add_and_pool_is_an_integer_kernel(network, tmp_path, precise):
    model, quantized, _ = network
    before = Counter(node.op_type for node in model.graph.node)
    after = kernels(quantized, tmp_path, precise=precise)
    assert {op: after[INTEGER[op]] for op in INTEGER} == {op: before[op] for op in INTEGER}
    assert after["MaxPool"] + after["NhwcMaxPool"] == before["MaxPool"]
    assert after["QuantizeLinear"] == 1, "the input, and then nothing is quantized again"
    assert not {op for op in FLOAT - {"MaxPool"} if after[op]}


def test_max_pool_and_flatten_run_on_bytes(network, tmp_path):
    _, quantized, _ = network
    inferred = onnx.shape_inference.infer_shapes(optimized(quantized, tmp_path))
    made = {node.output[0]: node for node in inferred.graph.node}
    for node in nodes_of(inferred, "NhwcMaxPool", "MaxPool", "Flatten"):
        source = made[node.input[0]]
        while source.op_type in ("Transpose", "Flatten"):
            source = made[source.input[0]]
        assert source.op_type.startswith(("QLinear", "NhwcMaxPool")), "what they read is UINT8"


def test_answers_like_the_float_model(network):
    model, quantized, images = network
    with OrtRuntime(model) as reference, OrtRuntime(quantized) as candidate:
        expected, got = (runtime.run({"input": images})["logits"] for runtime in (reference, candidate))
    assert got.dtype == np.float32
    assert signal_to_noise(expected, got) > 25
    assert not np.array_equal(got, expected)
    assert quantized.ByteSize() < 0.33 * model.ByteSize(), "small networks: the graph itself weighs in"


def test_the_default_runtime_is_exact_on_every_cpu(network):
    """Integer kernels and the arithmetic of the file agree but for values that fall on half a step."""
    _, quantized, images = network
    with OrtRuntime(quantized) as integers, OrtRuntime(quantized, exact_qdq=True) as written:
        assert not integers.may_saturate
        first, second = (runtime.run({"input": images})["logits"] for runtime in (integers, written))
    assert signal_to_noise(second, first) > 35


def test_the_file_takes_batches_and_passes_the_checker(network):
    _, quantized, images = network
    onnx.checker.check_model(quantized, full_check=True)
    with OrtRuntime(quantized) as runtime:
        for batch in (1, 2, 7):
            assert runtime.run({"input": images[:batch]})["logits"].shape == (batch, 10)


def test_types_and_scales(network):
    model, quantized, _ = network
    values, floats = constants(quantized), constants(model)
    for node in nodes_of(quantized, "QuantizeLinear"):
        assert values[node.input[2]].dtype == np.uint8
    relus = {node.output[0] for node in nodes_of(model, "Relu", "MaxPool", "GlobalAveragePool", "Flatten")}
    assert {int(values[f"{name}.zero_point"]) for name in relus if f"{name}.zero_point" in values} == {0}
    for layer in nodes_of(quantized, "Conv", "Gemm"):
        weight, bias, data = (layer.input[place].removesuffix(".dequantized") for place in (1, 2, 0))
        assert values[weight].dtype == np.int8
        assert not values[f"{weight}.zero_point"].any()
        assert values[bias].dtype == np.int32
        assert np.array_equal(values[f"{bias}.scale"], values[f"{data}.scale"] * values[f"{weight}.scale"])
        assert np.abs(values[bias] * values[f"{bias}.scale"] - floats[bias]).max() <= values[f"{bias}.scale"].max()


def test_no_two_weights_share_a_zero_point(network):
    """ONNX Runtime's precise mode fails to load a file in which two weights do."""
    _, quantized, _ = network
    used = [node.input[2] for node in nodes_of(quantized, "DequantizeLinear") if "weight" in node.input[0]]
    assert len(used) == len(set(used)) == len(nodes_of(quantized, "Conv", "Gemm"))


def test_what_only_moves_values_has_one_scale(network):
    model, quantized, _ = network
    values = constants(quantized)
    for node in nodes_of(model, "MaxPool", "Flatten"):
        for kind in ("scale", "zero_point"):
            assert values[f"{node.input[0]}.{kind}"] == values[f"{node.output[0]}.{kind}"], node.name


# Operators beyond ResNet's own


def test_concat_mul_sigmoid_average_pool_and_reshape(tmp_path):
    graph = GraphBuilder(channels=4)
    first, second = graph.conv("first", "input", 4), graph.conv("second", "input", 4)
    both = graph.node("Concat", "both", first, second, axis=1)
    graph.channels["both"] = 8
    pool = graph.node("AveragePool", "pool", graph.conv("third", both, 4), kernel_shape=[2, 2], strides=[2, 2])
    gate = graph.node(
        "Sigmoid", "gate", graph.conv("gate_conv", graph.node("GlobalAveragePool", "g", pool), 4, kernel=1)
    )
    model = graph.model(graph.gemm("logits", graph.node("Mul", "scaled", pool, gate), 3, transB=1))
    after = kernels(quantized_from(model, images_of(8, channels=4)), tmp_path)
    for op, count in {"Conv": 4, "Concat": 1, "AveragePool": 1, "GlobalAveragePool": 2, "Sigmoid": 1, "Mul": 1}.items():
        assert after[INTEGER[op]] == count, op
    assert after["QGemm"] == 1
    assert not {op for op in FLOAT if after[op]}


@pytest.mark.parametrize("limit", [0.3, 0.7, 6.0, None])
def test_the_pair_of_a_relu6_stands_behind_it_and_no_clip_is_left(limit, tmp_path):
    """Before it, one step would have to reach what the Clip cuts off: an EfficientNet-Lite0 kept 6 dB."""
    graph = GraphBuilder(channels=3)
    limits = [graph.constant("zero", np.float32(0))] + (
        [] if limit is None else [graph.constant("m", np.float32(limit))]
    )
    tensor = "input"
    for name in ("a", "b", "c"):
        tensor = graph.node("Clip", f"clip_{name}", graph.conv(name, tensor, 4), *limits)
    model = graph.model(graph.gemm("logits", graph.node("GlobalAveragePool", "pool", tensor), 3, transB=1))
    placement = place(model, Dialect.ONNXRUNTIME)
    assert [name for name in placement.activations if name in "abc"] == []
    after = kernels(quantized_from(model, images_of(8)), tmp_path)
    assert (after["QLinearConv"], after["Clip"]) == (3, 0)


def test_no_layer_of_an_efficientnet_lite_stays_in_float(tmp_path):
    """Its end is Clip, pool, Flatten, Gemm: all in integers, though the pool reads what a ReLU6 gives."""
    graph = GraphBuilder(channels=3)
    limits = [graph.constant("zero", np.float32(0)), graph.constant("six", np.float32(6))]
    expand = graph.node("Clip", "act1", graph.conv("expand", "input", 8, kernel=1), *limits)
    added = graph.node("Add", "add", graph.conv("project", expand, 3, kernel=1), graph.conv("stem", "input", 3))
    head = graph.node("Clip", "act2", graph.conv("head", added, 6, kernel=1), *limits)
    model = graph.model(graph.gemm("logits", head, 4, transB=1))
    after = kernels(quantized_from(model, images_of(8)), tmp_path)
    counts = {op: after[op] for op in ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm")}
    assert counts == {"QLinearConv": 4, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert not {op for op in FLOAT | {"Clip"} if after[op]}


@pytest.mark.parametrize("low", [-1.0, 0.1])
def test_a_clip_elsewhere_than_at_zero_is_no_relu(low, tmp_path):
    graph = GraphBuilder(channels=3)
    limits = [graph.constant("low", np.float32(low)), graph.constant("high", np.float32(1))]
    clip = graph.node("Clip", "clip", graph.conv("a", "input", 4), *limits)
    model = graph.model(graph.gemm("logits", graph.node("GlobalAveragePool", "pool", clip), 3, transB=1))
    assert "a" in place(model, Dialect.ONNXRUNTIME).activations


@pytest.mark.parametrize("trans_b", [0, 1])
def test_either_layout_of_a_gemm(trans_b, tmp_path):
    graph = GraphBuilder(channels=3)
    model = graph.model(graph.gemm("fc", graph.conv("conv", "input", 3), 5, transB=trans_b))
    after = kernels(quantized_from(model, images_of(8)), tmp_path)
    assert (after["QGemm"], after["Gemm"]) == (1, 0)


def test_a_layer_that_makes_an_output_stays_float():
    graph = GraphBuilder()
    relu = graph.node("Relu", "relu", graph.conv("conv1", "input", 2))
    placement = place(graph.model(graph.conv("conv2", relu, 2)), Dialect.ONNXRUNTIME)
    assert list(placement.activations) == ["input", "relu"]


def test_float_readers_of_an_integer_layer_do_not_keep_it_in_float(tmp_path):
    """A Softplus, for which there is no integer kernel, and a convolution read the same result."""
    graph = GraphBuilder()
    conv1 = graph.conv("conv1", "input", 2)
    model = graph.model(graph.node("Softplus", "soft", conv1), graph.conv("conv2", conv1, 2))
    placement = place(model, Dialect.ONNXRUNTIME)
    assert [reader.node for reader in placement.activations["conv1"]] == ["soft", "conv2"]
    assert kernels(insert_qdq(model, table_for(model)).model, tmp_path)["QLinearConv"] == 1


def test_what_leads_to_no_integer_kernel_is_left_alone():
    """An Add and a pool in front of a Softplus would lose accuracy and gain nothing."""
    graph = GraphBuilder()
    conv1, conv2 = graph.conv("conv1", "input", 2), graph.conv("conv2", "input", 2)
    pool = graph.node("AveragePool", "pool", graph.node("Add", "add", conv1, conv2), kernel_shape=[2, 2])
    last = graph.conv("last", graph.node("Softplus", "soft", pool), 2)
    placement = place(graph.model(last), Dialect.ONNXRUNTIME)
    assert list(placement.activations) == ["input", "conv1", "conv2", "soft"]


def test_a_bias_that_is_no_constant_is_named():
    graph = GraphBuilder()
    graph.conv("conv", "input", 2)
    del graph.initializers["conv.bias"]
    graph.node("Constant", "conv.bias", value_floats=[0.0, 0.0])
    graph.nodes.reverse()
    placement = place(graph.model("conv"), Dialect.ONNXRUNTIME)
    assert placement.skipped == ("conv: its bias 'conv.bias' is not a constant of its own",)
    assert not placement.activations


# Arithmetic


def small_net() -> tuple[ModelProto, CalibrationTable]:
    """A residual block; scales and constants are powers of two, so that sums are exact in any order."""
    rng = np.random.default_rng(SEED)
    graph = GraphBuilder(channels=3, size=6)
    for name in ("conv1", "conv2"):
        weight = rng.integers(-126, 127, (3, 3, 3, 3)) * 2.0**-7
        weight[:, 0, 0, 0] = [127 * 2.0**-7, -127 * 2.0**-7, 127 * 2.0**-7]
        graph.constant(f"{name}.weight", weight.astype(np.float32))
    hidden = graph.node("Relu", "relu", graph.conv("conv1", "input", 3, weight="conv1.weight"))
    main = graph.conv("conv2", hidden, 3, weight="conv2.weight")
    block = graph.node("Relu", "block", graph.node("Add", "add", main, "input"))
    pooled = graph.node("MaxPool", "pooled", block, kernel_shape=[2, 2], strides=[2, 2])
    fc = graph.gemm("logits", pooled, 4, transB=1)
    model = graph.model(fc, opset=20)
    step = {"input": unsigned(2**-4, 120), "relu": unsigned(2**-3), "conv2": unsigned(2**-1, 100)}
    step.update(dict.fromkeys(("block", "pooled"), unsigned(2**-1)))
    step.update(dict.fromkeys(("logits.pool", "logits.flat"), unsigned(2**-2)))
    return model, table_of(step)


def test_the_reference_evaluator_agrees_with_onnx_runtime_as_written():
    model, table = small_net()
    quantized = insert_qdq(model, table).model
    images = images_of(6, batch=4) * 5
    images[0, 0, 0, :4] = [2.0**-5, 3 * 2.0**-5, 99.0, -99.0]  # halves and both clips
    expected = ReferenceEvaluator(quantized).run(None, {"input": images})[0]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"input": images})[0], expected, rtol=1e-6, atol=1e-5)
    assert np.unique(expected).size > 8


def test_integer_kernels_agree_with_the_file(tmp_path):
    model, table = small_net()
    quantized = insert_qdq(model, table).model
    assert kernels(quantized, tmp_path)["QLinearConv"] == 2
    images = images_of(6, batch=16) * 5
    expected = ReferenceEvaluator(quantized).run(None, {"input": images})[0]
    with OrtRuntime(quantized) as runtime:
        assert signal_to_noise(expected, runtime.run({"input": images})["logits"]) > 45


def test_a_bias_too_large_for_its_weights_survives(tmp_path):
    """Channel 1 was switched off in training: next to no weight, and its bias says so."""
    graph = GraphBuilder(channels=2)
    weight = graph.random.normal(size=(2, 2, 1, 1)).astype(np.float32)
    weight[1] = 1e-20
    conv = graph.conv("conv", "input", 2, kernel=1, weight=graph.constant("w", weight))
    graph.constant("conv.bias", np.array([0.1, 0.7], np.float32))
    model = graph.model(graph.conv("next", conv, 2))
    quantized = insert_qdq(model, table_for(model)).model
    values = constants(quantized)
    assert values["conv.bias"][1] * values["conv.bias.scale"][1] == pytest.approx(0.7, rel=1e-6)
    assert values["conv.bias"].dtype == np.int32
    assert kernels(quantized, tmp_path)["QLinearConv"] == 1


def test_a_shared_bias_is_stored_once_for_each_scale():
    graph = GraphBuilder()
    bias = graph.constant("b", np.array([0.5, -0.25], np.float32))
    for name, data in (("conv1", "input"), ("conv2", "relu"), ("conv3", "conv2")):
        graph.conv(name, data, 2)
        graph.nodes[-1].input[2] = bias
        if name == "conv1":
            graph.node("Relu", "relu", "conv1")
    for name in ("conv1", "conv2", "conv3"):
        del graph.initializers[f"{name}.bias"]
    model = graph.model("conv3")
    quantized = insert_qdq(model, table_for(model)).model
    values = constants(quantized)
    assert "b" not in values
    for name in ("conv1", "conv2", "conv3"):
        restored = values[f"b.{name}"] * values[f"b.{name}.scale"]
        assert np.allclose(restored, [0.5, -0.25], atol=values[f"b.{name}.scale"].max())


# What is refused, and what stays as it was


def test_a_table_of_the_other_dialect_is_refused():
    graph = GraphBuilder()
    model = graph.model(graph.conv("conv", "input", 2))
    signed = table_of({"input": TensorRange(1.0, 1 / 127, 1.0)})
    with pytest.raises(CalibrationError, match=r"for onnxruntime, which takes uint8, but 'input' is int8"):
        insert_qdq(model, signed)
    other = CalibrationTable({"input": unsigned(0.1)}, {"name": "max"}, 1, (), ())
    with pytest.raises(CalibrationError, match=r"for tensorrt, which takes int8, but 'input' is uint8"):
        insert_qdq(model, other)


@pytest.mark.parametrize("taken", ["conv.bias.scale", "input.zero_point", "conv.weight.zero_point"])
def test_names_that_are_taken_are_refused(taken):
    graph = GraphBuilder()
    offset = graph.constant(taken, np.ones((), np.float32))
    model = graph.model(graph.node("Add", "add", graph.conv("conv", "input", 2), offset))
    with pytest.raises(PlacementError, match=f"'{taken}' is needed for Q/DQ"):
        insert_qdq(model, table_for(model))


def test_a_bias_of_nan_is_named():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    graph.constant("conv.bias", np.array([0.0, np.nan], np.float32))
    model = graph.model(conv)
    with pytest.raises(CalibrationError, match=r"'conv\.bias': a bias to quantize holds NaN or Inf"):
        insert_qdq(model, table_for(model))


@pytest.mark.parametrize("dialect", Dialect)
def test_only_this_dialect_is_unsigned(dialect):
    graph = GraphBuilder()
    relu = graph.node("Relu", "relu", graph.conv("conv1", "input", 2))
    model = graph.model(graph.conv("conv2", relu, 2))
    table = calibrate(model, [images_of(8, channels=2)], open_runtime=OrtRuntime, dialect=dialect)
    quantized = insert_qdq(model, table).model
    kinds = {tensor.data_type for tensor in quantized.graph.initializer}
    expected = {TensorProto.FLOAT, TensorProto.INT8}
    assert kinds == expected | ({TensorProto.UINT8, TensorProto.INT32} if dialect is Dialect.ONNXRUNTIME else set())


def test_ranges_of_the_digits_network_are_of_what_is_read():
    """Input and pool results too, with the exact extremes; what is always positive starts at 0."""
    graph = GraphBuilder()
    relu = graph.node("Relu", "relu", graph.conv("conv1", "input", 2))
    pool = graph.node("MaxPool", "pool", relu, kernel_shape=[2, 2], strides=[2, 2])
    model = graph.model(graph.conv("conv2", pool, 2))
    images = [images_of(8, channels=2, batch=3), 2 * images_of(8, seed=SEED + 1, channels=2, batch=5)]
    table = calibrate(model, images, open_runtime=OrtRuntime, dialect=Dialect.ONNXRUNTIME)
    assert table.dialect is Dialect.ONNXRUNTIME
    assert list(table.ranges) == ["input", "relu", "pool"]
    everything = np.concatenate(images)
    assert (table.ranges["input"].min_value, table.ranges["input"].max_value) == (everything.min(), everything.max())
    assert table.ranges["input"].zero_point == pytest.approx(128, abs=12)
    assert table.ranges["relu"] is table.ranges["pool"], "the maximum of a pool is one of the values before it"
    assert table.ranges["pool"].zero_point == 0
