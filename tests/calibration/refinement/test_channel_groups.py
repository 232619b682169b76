"""find_channel_groups: which tensors carry one factor, and that scaling them leaves every output as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder, export_random, three_stages_of_resnet
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calibration.refinement.channel_groups import ChannelGroup, find_channel_groups
from calibration.refinement.cross_layer_equalization import scale_channels
from exporter.networks.cifar_resnet import CifarResNet
from runtimes.ort.adapter import OrtRuntime

SEED = 20261124
TOLERANCE = 1e-4
"""Of the largest output: float32 constants times factors of 0.1 to 10, rounded once."""


def random_factors(groups: tuple[ChannelGroup, ...], seed: int = SEED) -> dict[ChannelGroup, np.ndarray]:
    random = np.random.default_rng(seed)
    return {group: 10.0 ** random.uniform(-1, 1, group.num_channels) for group in groups}


def outputs(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    with OrtRuntime(model) as runtime:
        return runtime.run({"input": images})


def assert_scaling_changes_nothing(model: ModelProto, *, batch: int = 3) -> tuple[ChannelGroup, ...]:
    """Scale every group at random, compare the outputs, and return the groups."""
    groups = find_channel_groups(model)
    before = model.SerializeToString(deterministic=True)
    scaled = scale_channels(model, random_factors(groups)).model
    assert model.SerializeToString(deterministic=True) == before, "the float model is not changed"
    onnx.checker.check_model(scaled, full_check=True)
    shape = [dim.dim_value or batch for dim in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(SEED).normal(size=shape).astype(np.float32)
    expected, got = outputs(model, images), outputs(scaled, images)
    for name, values in expected.items():
        assert np.abs(got[name] - values).max() <= TOLERANCE * np.abs(values).max(), name
    return groups


def names(groups: tuple[ChannelGroup, ...]) -> list[tuple[str, ...]]:
    return [group.tensors for group in groups]


def test_a_chain_is_one_group_of_two_tensors() -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.conv("second", "relu", 3)
    (group,) = assert_scaling_changes_nothing(build.model("second"))
    assert group == ChannelGroup(("first", "relu"), ("first",), ("second",), 4)


def test_the_reference_evaluator_agrees_with_a_factor_by_hand() -> None:
    build = GraphBuilder(channels=1, size=1)
    build.constant("w1", np.float32([[[[2.0]]], [[[3.0]]]]))
    build.constant("b1", np.float32([1.0, -1.0]))
    build.node("Conv", "first", "input", "w1", "b1")
    build.constant("w2", np.float32([[[[10.0]], [[100.0]]]]))
    build.node("Conv", "second", "first", "w2")
    model = build.model("second")
    (group,) = find_channel_groups(model)
    scaled = scale_channels(model, {group: np.array([2.0, 0.5])}).model
    values = {tensor.name: onnx.numpy_helper.to_array(tensor).ravel().tolist() for tensor in scaled.graph.initializer}
    assert values == {"w1": [4.0, 1.5], "b1": [2.0, -0.5], "w2": [5.0, 200.0]}
    images = np.float32([[[[1.0]]]])
    for each in (model, scaled):
        assert ReferenceEvaluator(each).run(None, {"input": images})[0].item() == 10 * 3 + 100 * 2


def residual_stage(build: GraphBuilder) -> str:
    """Two basic blocks at one width, the first with a projection."""
    build.node("Relu", "stem.relu", build.conv("stem", "input", 4))
    build.node("Relu", "a.relu", build.conv("a.conv1", "stem.relu", 6))
    build.node("Add", "a.add", build.conv("a.conv2", "a.relu", 6), build.conv("a.down", "stem.relu", 6, kernel=1))
    build.node("Relu", "a.out", "a.add")
    build.node("Relu", "b.relu", build.conv("b.conv1", "a.out", 5))
    build.node("Add", "b.add", build.conv("b.conv2", "b.relu", 6), "a.out")
    return build.node("Relu", "b.out", "b.add")


def test_a_residual_stage_is_one_group_with_its_projection() -> None:
    build = GraphBuilder()
    build.gemm("logits", residual_stage(build), 3)
    groups = assert_scaling_changes_nothing(build.model("logits"))
    assert names(groups) == [
        ("stem", "stem.relu"),
        ("a.conv1", "a.relu"),
        (
            *("a.conv2", "a.down", "a.add", "a.out", "b.conv2", "b.add", "b.out"),
            *("logits.pool", "logits.flat"),
        ),
        ("b.conv1", "b.relu"),
    ]
    stage = groups[2]
    assert stage.producers == ("a.conv2", "a.down", "b.conv2")
    assert stage.consumers == ("b.conv1", "logits")
    assert groups[0].consumers == ("a.conv1", "a.down")


@pytest.mark.parametrize("transposed", [0, 1])
def test_factors_go_through_pool_and_flatten_into_a_gemm(transposed: int) -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("conv", "input", 4))
    build.gemm("hidden", "relu", 5, transB=transposed)
    build.constant("out.weight", build.random.normal(size=(5, 3)).astype(np.float32))
    build.node("Gemm", "out", "hidden", "out.weight")
    groups = assert_scaling_changes_nothing(build.model("out"))
    assert names(groups) == [("conv", "relu", "hidden.pool", "hidden.flat"), ("hidden",)]


@pytest.mark.parametrize("num_groups", [2, 4])
def test_grouped_and_depthwise_convolutions(num_groups: int) -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    weight = build.random.normal(size=(8, 4 // num_groups, 3, 3)).astype(np.float32)
    build.constant("grouped.weight", weight)
    build.node("Conv", "grouped", "relu", "grouped.weight", group=num_groups, pads=[1] * 4)
    build.channels["grouped"] = 8
    build.conv("last", "grouped", 2)
    groups = assert_scaling_changes_nothing(build.model("last"))
    assert [(group.num_channels, group.producers, group.consumers) for group in groups] == [
        (4, ("first",), ("grouped",)),
        (8, ("grouped",), ("last",)),
    ]


def batchnorm(build: GraphBuilder, name: str, data: str, **attributes) -> str:
    channels = build.channels[data]
    for part, low, high in (("scale", 0.5, 2), ("bias", -1, 1), ("mean", -1, 1), ("var", 0.5, 2)):
        build.constant(f"{name}.{part}", build.random.uniform(low, high, channels).astype(np.float32))
    constants = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
    return build.node("BatchNormalization", name, data, *constants, **attributes)


def test_a_batchnorm_that_could_not_be_folded_produces_and_consumes() -> None:
    """A pre-activation block: the BatchNorm follows an Add."""
    build = GraphBuilder()
    build.node("Add", "add", build.conv("a", "input", 4), build.conv("b", "input", 4))
    build.node("Relu", "relu", batchnorm(build, "norm", "add"))
    build.conv("last", "relu", 2)
    groups = assert_scaling_changes_nothing(build.model("last"))
    assert [(group.tensors, group.producers, group.consumers) for group in groups] == [
        (("a", "b", "add"), ("a", "b"), ("norm",)),
        (("norm", "relu"), ("norm",), ("last",)),
    ]


PASSING = {
    "LeakyRelu": {"alpha": 0.2},
    "MaxPool": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "AveragePool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    "GlobalMaxPool": {},
    "Identity": {},
}


@pytest.mark.parametrize("op", PASSING)
def test_operators_that_pass_factors(op: str) -> None:
    build = GraphBuilder()
    build.node(op, "middle", build.conv("first", "input", 4), **PASSING[op])
    build.conv("last", "middle", 2, kernel=1)
    assert names(assert_scaling_changes_nothing(build.model("last"))) == [("first", "middle")]


def test_average_pool_without_the_padding_passes_factors() -> None:
    build = GraphBuilder()
    build.node(
        "AveragePool", "middle", build.conv("first", "input", 4), kernel_shape=[2, 2], pads=[1, 0, 0, 1], strides=[2, 2]
    )
    build.conv("last", "middle", 2, kernel=1)
    assert names(assert_scaling_changes_nothing(build.model("last"))) == [("first", "middle")]


def test_a_constant_slope_passes_factors_and_a_computed_one_does_not() -> None:
    build = GraphBuilder()
    build.constant("slope", build.random.uniform(-1, 1, (4, 1, 1)).astype(np.float32))
    build.node("PRelu", "middle", build.conv("first", "input", 4), "slope")
    build.conv("last", "middle", 2)
    assert names(assert_scaling_changes_nothing(build.model("last"))) == [("first", "middle")]
    build.nodes[1].input[1] = build.conv("computed", "input", 4)
    build.nodes.insert(1, build.nodes.pop())
    assert find_channel_groups(build.model("last")) == ()


@pytest.mark.parametrize(("opset", "keepdims"), [(17, 0), (17, 1), (20, 0), (20, 1)])
def test_a_mean_over_the_picture_passes_factors(opset: int, keepdims: int) -> None:
    build = GraphBuilder()
    build.conv("first", "input", 4)
    if opset < 18:
        build.node("ReduceMean", "mean", "first", axes=[-1, 2], keepdims=keepdims)
    else:
        build.node("ReduceMean", "mean", "first", build.constant("axes", np.int64([-1, 2])), keepdims=keepdims)
    if keepdims:
        build.node("Squeeze", "flat", "mean", build.constant("squeezed", np.int64([2, 3])))
    build.constant("weight", build.random.normal(size=(4, 2)).astype(np.float32))
    build.node("Gemm", "out", "flat" if keepdims else "mean", "weight")
    groups = assert_scaling_changes_nothing(build.model("out", opset=opset))
    assert names(groups) == [("first", "mean", "flat")[: 2 + keepdims]]


def test_a_mean_over_channels_does_not() -> None:
    build = GraphBuilder()
    build.node("ReduceMean", "mean", build.conv("first", "input", 4), axes=[1], keepdims=1)
    build.channels["mean"] = 1
    build.conv("last", "mean", 2)
    assert find_channel_groups(build.model("last")) == ()


def test_flattening_a_picture_ends_the_group() -> None:
    build = GraphBuilder(size=2)
    build.node("Flatten", "flat", build.conv("first", "input", 4), axis=1)
    build.constant("weight", build.random.normal(size=(16, 2)).astype(np.float32))
    build.node("Gemm", "out", "flat", "weight")
    assert find_channel_groups(build.model("out")) == ()


@pytest.mark.parametrize("op", ["Sigmoid", "Clip", "Tanh", "Softmax", "HardSwish", "Elu"])
def test_operators_that_are_not_homogeneous_end_the_group(op: str) -> None:
    build = GraphBuilder()
    build.node(op, "middle", build.conv("first", "input", 4))
    build.conv("last", "middle", 2)
    assert find_channel_groups(build.model("last")) == ()


def test_squeeze_and_excitation_is_scaled_inside_only() -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.node("GlobalAveragePool", "pool", "relu")
    build.node("Relu", "squeezed", build.conv("reduce", "pool", 2, kernel=1))
    build.node("Sigmoid", "gate", build.conv("expand", "squeezed", 4, kernel=1))
    build.node("Mul", "gated", "relu", "gate")
    build.conv("last", "gated", 2)
    assert names(assert_scaling_changes_nothing(build.model("last"))) == [("reduce", "squeezed")]


@pytest.mark.parametrize("touched", ["relu", "first"])
def test_a_graph_output_ends_the_group(touched: str) -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.conv("last", "relu", 2)
    assert find_channel_groups(build.model("last", touched)) == ()


def test_the_graph_input_ends_the_group() -> None:
    build = GraphBuilder(channels=4)
    build.node("Add", "add", build.conv("first", "input", 4), "input")
    build.conv("last", "add", 2)
    assert find_channel_groups(build.model("last")) == ()


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("layer", ["first", "last"])
def test_shared_constants_end_the_group(part: str, layer: str) -> None:
    build = GraphBuilder(channels=4)
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.conv("last", "relu", 4)
    build.constant("other.bias", np.zeros(4, np.float32))
    constants = {"weight": f"{layer}.weight", "bias": "other.bias"}
    if part == "bias":
        constants = {"weight": f"{layer}.weight.2", "bias": f"{layer}.bias"}
        build.constant(constants["weight"], build.random.normal(size=(4, 4, 3, 3)).astype(np.float32))
    build.node("Conv", "other", "input", constants["weight"], constants["bias"], pads=[1] * 4)
    assert find_channel_groups(build.model("last", "other")) == ()


def test_a_weight_that_callers_may_replace_ends_the_group() -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.conv("last", "relu", 2)
    build.inputs.append(helper.make_tensor_value_info("last.weight", TensorProto.FLOAT, [2, 4, 3, 3]))
    assert find_channel_groups(build.model("last")) == ()


def test_a_broadcast_add_ends_the_group() -> None:
    build = GraphBuilder()
    build.conv("first", "input", 4)
    build.node("GlobalAveragePool", "pooled", "first")
    build.node("Add", "add", "first", "pooled")
    build.conv("last", "add", 2)
    assert find_channel_groups(build.model("last")) == ()


def test_an_added_constant_ends_the_group_also_behind_other_operators() -> None:
    for between in ("", "Relu", "Identity"):
        build = GraphBuilder()
        added = build.constant("offset", np.ones((1, 4, 8, 8), np.float32))
        if between:
            added = build.node(between, "moved", added)
        build.node("Add", "add", build.conv("first", "input", 4), added)
        build.conv("last", "add", 2)
        assert assert_scaling_changes_nothing(build.model("last")) == (), between


def test_padding_and_concatenating_end_the_group() -> None:
    build = GraphBuilder()
    build.constant("pads", np.int64([0, 2, 0, 0, 0, 2, 0, 0]))
    build.node("Pad", "padded", build.conv("first", "input", 4), "pads")
    build.node("Concat", "both", "padded", build.conv("second", "input", 4), axis=1)
    build.channels["both"] = 12
    build.conv("last", "both", 2)
    assert find_channel_groups(build.model("last")) == ()


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}])
def test_a_scaled_gemm_ends_the_group(attributes: dict) -> None:
    build = GraphBuilder()
    build.gemm("out", build.conv("first", "input", 4), 3, **attributes)
    assert find_channel_groups(build.model("out")) == ()


@pytest.mark.parametrize("shape", [(1, 3), (1,), ()])
def test_a_gemm_whose_bias_broadcasts_ends_the_group(shape: tuple[int, ...]) -> None:
    build = GraphBuilder()
    build.gemm("hidden", build.conv("first", "input", 4), 3)
    build.constant("hidden.bias", np.ones(shape, np.float32))
    build.constant("weight", np.ones((3, 2), np.float32))
    build.node("Gemm", "out", "hidden", "weight")
    assert assert_scaling_changes_nothing(build.model("out")) == ()


def test_a_gemm_whose_bias_is_computed_ends_the_group() -> None:
    build = GraphBuilder(channels=3)
    build.node("Flatten", "computed", build.node("GlobalAveragePool", "mean", "input"), axis=1)
    build.gemm("out", build.conv("first", "input", 4), 3)
    build.nodes[-1].input[2] = "computed"
    assert find_channel_groups(build.model("out")) == ()


def test_a_batchnorm_in_training_ends_the_group() -> None:
    build = GraphBuilder()
    batchnorm(build, "norm", build.conv("first", "input", 4), training_mode=1)
    build.nodes[-1].output.extend(["norm.running_mean", "norm.running_var"])
    build.conv("last", "norm", 2)
    assert find_channel_groups(build.model("last")) == ()


def test_a_graph_with_subgraphs_is_left_alone() -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("first", "input", 4))
    build.conv("last", "relu", 2)
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([helper.make_node(op, ["relu"], ["inner"])], name, [], [value])
        for name, op in (("then_branch", "Identity"), ("else_branch", "Neg"))
    }
    build.node("If", "chosen", build.constant("always", np.bool_(True)), **branches)
    assert find_channel_groups(build.model("last", "chosen")) == ()


def random_graph(seed: int) -> ModelProto:
    """A graph of 6 to 14 random nodes with up to two outputs; every operator above may stand anywhere."""
    random = np.random.default_rng(seed)
    build = GraphBuilder(channels=4, size=4, seed=seed)
    live = {4: ["input"]}

    def add(name: str, channels: int) -> None:
        build.channels[name] = channels
        live.setdefault(channels, []).append(name)

    for number in range(random.integers(6, 15)):
        name = f"n{number}"
        channels = int(random.choice([width for width in live if live[width]]))
        data = str(random.choice(live[channels][-3:]))
        kind = str(random.choice(["conv", "conv", "conv", "grouped", "relu", "add", "add", "norm", "pass", "stop"]))
        if kind == "conv":
            width = int(random.choice([4, 6]))
            add(build.conv(name, data, width, kernel=int(random.choice([1, 3]))), width)
        elif kind == "grouped":
            weight = random.normal(0, 0.5, (channels, channels // 2, 3, 3)).astype(np.float32)
            build.constant(f"{name}.weight", weight)
            add(build.node("Conv", name, data, f"{name}.weight", group=2, pads=[1] * 4), channels)
        elif kind == "norm":
            add(batchnorm(build, name, data), channels)
        elif kind == "add":
            add(build.node("Add", name, data, str(random.choice(live[channels]))), channels)
        elif kind == "pass":
            op = str(random.choice(["LeakyRelu", "MaxPool", "AveragePool", "Identity"]))
            pool = {"kernel_shape": [3, 3], "pads": [1] * 4}
            add(build.node(op, name, data, **(pool if op.endswith("Pool") else {})), channels)
        elif kind == "stop":
            add(build.node(str(random.choice(["Sigmoid", "Tanh", "Neg", "Abs"])), name, data), channels)
        else:
            add(build.node("Relu", name, data), channels)
    made = [node.output[0] for node in build.nodes]
    read = {name for node in build.nodes for name in node.input}
    unread = [name for name in made if name not in read]
    build.conv("head", unread[-1], 2, kernel=1)
    return build.model("head", *unread[:-1][: random.integers(0, 2)])


def test_scaling_any_group_of_any_random_graph_changes_no_output() -> None:
    found = [len(assert_scaling_changes_nothing(random_graph(seed), batch=2)) for seed in range(120)]
    assert sum(found) > 60, "the graphs hold enough groups for this to mean something"


def architectures():
    import torchvision.models as zoo
    from torch import nn
    from torchvision.models.densenet import DenseNet
    from torchvision.models.mobilenetv3 import InvertedResidualConfig
    from torchvision.models.vgg import make_layers

    blocks_of_mobilenet_v3 = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 0.25),
        InvertedResidualConfig(16, 3, 72, 24, False, "RE", 2, 1, 0.25),
        InvertedResidualConfig(24, 5, 96, 24, True, "HS", 1, 1, 0.25),
    ]

    return {
        "cifar": lambda: CifarResNet(8),
        "resnet": lambda: three_stages_of_resnet("BasicBlock", (2, 1, 1)),
        "resnext": lambda: three_stages_of_resnet("Bottleneck", (1, 2, 1), groups=32, width_per_group=4),
        "densenet": lambda: DenseNet(8, (2, 2), 16, num_classes=10),
        "vgg": lambda: nn.Sequential(
            make_layers([8, 8, "M", 16], batch_norm=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        ),
        "mobilenet_v2": lambda: zoo.MobileNetV2(10, 0.1, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
        "mobilenet_v3": lambda: zoo.MobileNetV3(blocks_of_mobilenet_v3, 64, num_classes=10),
    }


EXPECTED_GROUPS = {
    "cifar": 6,  # three stages and the tensor inside each block
    "resnet": 7,
    "resnext": 12,
}


SLOW = {"resnext", "densenet"}  # tens of layers to trace


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in ("cifar", "resnet", "resnext", "densenet", "vgg", "mobilenet_v2", "mobilenet_v3")
    ],
)
def test_exported_architectures_answer_the_same_with_every_group_scaled(name: str) -> None:
    import torch

    torch.manual_seed(SEED)
    groups = assert_scaling_changes_nothing(export_random(architectures()[name](), size=32), batch=2)
    assert len(groups) == EXPECTED_GROUPS.get(name, len(groups))
    assert groups
