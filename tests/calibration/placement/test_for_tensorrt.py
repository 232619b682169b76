"""place_qdq: which tensors, which readers, which weights, and why something stays in float."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder, export_random
from onnx import TensorProto, helper

from calibration.errors import PlacementError
from calibration.placement.for_tensorrt import QuantizedWeight, Reader, place_qdq


def readers(placement) -> dict[str, list[tuple[str, int]]]:
    return {name: [(reader.node, reader.index) for reader in found] for name, found in placement.activations.items()}


def identity_block(graph: GraphBuilder, x: str) -> str:
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", x, 2)), 2)
    return graph.node("Relu", "out", graph.node("Add", "add", conv2, x))


def test_identity_block_shares_one_pair():
    graph = GraphBuilder()
    out = identity_block(graph, graph.node("Relu", "x", "input"))
    placement = place_qdq(graph.model(out))
    assert placement.activations == {
        "x": (Reader("conv1", 0), Reader("add", 1)),
        "relu": (Reader("conv2", 0),),
    }
    assert placement.weights == (QuantizedWeight("conv1.weight", 0), QuantizedWeight("conv2.weight", 0))
    assert (placement.num_adds, len(placement.residual_adds), placement.skipped) == (1, 1, ())


def test_projection_block():
    """The shortcut's own convolution gets a pair behind it, the main path's does not."""
    graph = GraphBuilder()
    downsample = graph.conv("downsample", "input", 4, kernel=1, stride=2)
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", "input", 4, stride=2)), 4)
    placement = place_qdq(graph.model(graph.node("Add", "add", downsample, conv2)))
    assert readers(placement) == {
        "input": [("downsample", 0), ("conv1", 0)],
        "relu": [("conv2", 0)],
        "downsample": [("add", 0)],
    }


def test_everything_else_stays_in_float():
    graph = GraphBuilder()
    x = graph.node("Relu", "relu", graph.conv("conv", "input", 2))
    x = graph.node("MaxPool", "pool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = graph.node("Concat", "concat", x, graph.node("Mul", "mul", x, x), axis=1)
    placement = place_qdq(graph.model(y))
    assert readers(placement) == {"input": [("conv", 0)]}


def test_an_unmatched_add_is_counted_and_said():
    graph = GraphBuilder()
    placement = place_qdq(graph.model(graph.node("Add", "add", graph.node("Relu", "relu", "input"), "input")))
    assert (placement.num_adds, placement.residual_adds, placement.activations) == (1, (), {})
    assert placement.skipped[0].startswith("add: neither operand")


@pytest.mark.parametrize(("attributes", "axis"), [({"transB": 1}, 0), ({"transB": 0}, 1), ({}, 1)])
def test_gemm_axis_is_that_of_the_output_channels(attributes, axis):
    graph = GraphBuilder(channels=3)
    placement = place_qdq(graph.model(graph.gemm("fc", "input", 5, **attributes)))
    assert placement.weights == (QuantizedWeight("fc.weight", axis),)
    assert readers(placement) == {"fc.flat": [("fc", 0)]}


def test_gemm_with_beta_is_quantized():
    graph = GraphBuilder()
    assert len(place_qdq(graph.model(graph.gemm("fc", "input", 5, beta=0.5))).weights) == 1


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"transA": 1}])
def test_odd_gemm_stays_in_float(attributes):
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((4 if "transA" in attributes else 2, 5), np.float32))
    graph.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [4, 2])]
    placement = place_qdq(graph.model(graph.node("Gemm", "fc", "input", weight, **attributes)))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("fc: Gemm with alpha != 1 or transA",)


def test_a_computed_weight_stays_in_float():
    graph = GraphBuilder()
    graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    conv = graph.node("Conv", "conv", "input", graph.node("Relu", "computed", "w"))
    placement = place_qdq(graph.model(conv))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("conv: its weight 'computed' is not a constant",)


def test_a_weight_that_callers_may_replace_stays_in_float():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    graph.inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2, 1, 1]))
    placement = place_qdq(graph.model(graph.node("Conv", "conv", "input", weight)))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("conv: its weight 'w' is a graph input, which callers may replace",)


def test_a_weight_of_another_type_stays_as_it_is():
    graph = GraphBuilder()
    graph.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT16, ["batch", 2, 8, 8])]
    conv = graph.node("Conv", "conv", "input", graph.constant("w", np.ones((2, 2, 1, 1), np.float16)))
    out = graph.node("Cast", "out", conv, to=TensorProto.FLOAT)
    placement = place_qdq(graph.model(out))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("conv: its weight 'w' is FLOAT16, not float32",)


def test_a_constant_data_input_stays_in_float():
    graph = GraphBuilder()
    data = graph.constant("data", np.ones((1, 2, 8, 8), np.float32))
    graph.channels["data"] = 2
    placement = place_qdq(graph.model(graph.node("Mul", "out", graph.conv("conv", data, 2), "input")))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("conv: its data input 'data' is a constant",)


def test_a_weight_shared_by_two_convolutions_is_quantized_once():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 3, 3), np.float32))
    x = graph.conv("conv1", "input", 2, weight=weight)
    placement = place_qdq(graph.model(graph.conv("conv2", x, 2, weight=weight)))
    assert placement.weights == (QuantizedWeight("w", 0),)
    assert readers(placement) == {"input": [("conv1", 0)], "conv1": [("conv2", 0)]}
    assert placement.skipped == ()


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_weight_used_elsewhere_stays_in_float(place):
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    if place == "first":
        graph.node("Relu", "other", weight)
    conv = graph.conv("conv", "input", 2, kernel=1, weight=weight)
    if place == "second":
        graph.node("Relu", "other", weight)
    placement = place_qdq(graph.model(conv, "other"))
    assert (placement.weights, placement.activations) == ((), {})
    assert placement.skipped == ("conv: its weight 'w' is also used in another way",)


def test_a_weight_that_is_also_a_bias_stays_in_float():
    graph = GraphBuilder()
    graph.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])]
    weight = graph.constant("w", np.ones((3, 3), np.float32))
    placement = place_qdq(graph.model(graph.node("Gemm", "fc", "input", weight, weight)))
    assert placement.weights == ()
    assert placement.skipped == ("fc: its weight 'w' is also used in another way",)


def test_a_weight_with_two_channel_axes_stays_in_float():
    graph = GraphBuilder()
    graph.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])]
    weight = graph.constant("w", np.ones((3, 3), np.float32))
    first = graph.node("Gemm", "fc1", "input", weight, transB=1)
    placement = place_qdq(graph.model(graph.node("Gemm", "fc2", first, weight, transB=0)))
    assert placement.weights == ()
    assert [reason.partition(":")[0] for reason in placement.skipped] == ["fc1", "fc2"]


def test_a_weight_that_is_a_graph_output_stays_in_float():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    model = graph.model(graph.conv("conv", "input", 2, kernel=1, weight=weight))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2, 1, 1]))
    placement = place_qdq(model)
    assert placement.weights == ()
    assert placement.skipped == ("conv: its weight 'w' is a graph output",)


@pytest.mark.parametrize("names", [("conv", "conv"), ("", "conv"), ("", "")])
def test_nodes_without_a_name_of_their_own_are_refused(names):
    """Readers are told apart by node name: with two of one name the wrong node would be rewired."""
    graph = GraphBuilder()
    out = graph.conv("b", graph.conv("a", "input", 2), 2)
    for node, name in zip(graph.nodes, names, strict=True):
        node.name = name
    with pytest.raises(PlacementError, match="expected a name of its own"):
        place_qdq(graph.model(out))


def test_the_model_is_not_changed():
    graph = GraphBuilder()
    model = graph.model(identity_block(graph, "input"))
    before = model.SerializeToString(deterministic=True)
    place_qdq(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_whole_small_resnet():
    """ResNet-20: 22 weighted layers; 9 Adds, of which 2 have a projection."""
    from exporter.networks.cifar_resnet import CifarResNet

    placement = place_qdq(export_random(CifarResNet(20), size=32))
    assert placement.skipped == ()
    assert len(placement.weights) == 22
    assert {weight.axis for weight in placement.weights} == {0}
    assert placement.num_adds == len(placement.residual_adds) == 9
    assert not {add.main for add in placement.residual_adds} & placement.activations.keys()
    found = readers(placement)
    for stage, block in [(stage, block) for stage in (1, 2, 3) for block in range(3)]:
        path = f"layer{stage}.{block}"
        holders = [name for name, uses in found.items() if (f"{path}.add", 1) in uses or (f"{path}.add", 0) in uses]
        assert len(holders) == 1, "exactly one operand"
        if stage > 1 and block == 0:
            assert [node for node, _ in found[holders[0]]] == [f"{path}.add"]
        else:
            assert [node for node, _ in found[holders[0]]] == [f"{path}.conv1", f"{path}.add"]
