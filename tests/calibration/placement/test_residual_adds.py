"""find_residual_adds on hand-built blocks, then on exported torchvision ResNets."""

from __future__ import annotations

import time

import numpy as np
import pytest
from graph_builder import GraphBuilder, export_random, three_stages_of_resnet

from calibration.placement.residual_adds import ResidualAdd, find_residual_adds

SEED = 20261123
"""Of test_onnxruntime_kernels, so that both trace the same two networks once."""


def the_match(model) -> ResidualAdd:
    found = find_residual_adds(model)
    assert found.skipped == ()
    assert len(found.matched) == 1
    return found.matched[0]


def swapped(flip: bool, main: str, shortcut: str) -> tuple[str, str]:
    return (shortcut, main) if flip else (main, shortcut)


@pytest.mark.parametrize("flip", [False, True])
def test_identity_block(flip):
    graph = GraphBuilder()
    x = graph.node("Relu", "x", "input")
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", x, 2)), 2)
    out = graph.node("Relu", "out", graph.node("Add", "add", *swapped(flip, conv2, x)))
    assert the_match(graph.model(out)) == ResidualAdd("add", main="conv2", shortcut="x", shortcut_index=int(not flip))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shortcut_first", [False, True])
def test_projection_block(flip, shortcut_first):
    """Neither the order of the operands nor the order of the nodes says which is the shortcut."""
    graph = GraphBuilder()
    x = graph.node("Relu", "x", "input")
    if shortcut_first:
        graph.conv("downsample", x, 4, kernel=1, stride=2)
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", x, 4, stride=2)), 4)
    if not shortcut_first:
        graph.conv("downsample", x, 4, kernel=1, stride=2)
    out = graph.node("Add", "add", *swapped(flip, conv2, "downsample"))
    assert the_match(graph.model(out)) == ResidualAdd("add", "conv2", "downsample", int(not flip))


@pytest.mark.parametrize("flip", [False, True])
def test_bottleneck_projection(flip):
    graph = GraphBuilder()
    conv1 = graph.node("Relu", "relu1", graph.conv("conv1", "input", 2, kernel=1))
    conv2 = graph.node("Relu", "relu2", graph.conv("conv2", conv1, 2))
    conv3 = graph.conv("conv3", conv2, 8, kernel=1)
    downsample = graph.conv("downsample", "input", 8, kernel=1)
    out = graph.node("Add", "add", *swapped(flip, conv3, downsample))
    assert the_match(graph.model(out)).main == "conv3"


@pytest.mark.parametrize("flip", [False, True])
def test_only_convolutions_since_the_fork_count(flip):
    """Two long chains before the fork, and a shortcut of pooling and one convolution (ResNet-D)."""
    graph = GraphBuilder()
    x = "input"
    for index in range(4):
        x = graph.node("Relu", f"stem{index}.relu", graph.conv(f"stem{index}", x, 2))
    pooled = x
    for index in range(5):
        pooled = graph.node("AveragePool", f"pool{index}", pooled, kernel_shape=[1, 1])
    downsample = graph.conv("downsample", pooled, 2, kernel=1)
    conv2 = graph.conv("conv2", graph.conv("conv1", x, 2), 2)
    out = graph.node("Add", "add", *swapped(flip, conv2, downsample))
    assert the_match(graph.model(out)).main == "conv2"


@pytest.mark.parametrize("flip", [False, True])
def test_the_longest_way_counts_inside_a_branch(flip):
    """The main path holds a block of its own, whose shortcut is shorter than the projection beside it."""
    graph = GraphBuilder()
    start = graph.conv("start", "input", 2)
    inner = graph.node("Add", "inner", graph.conv("b", graph.conv("a", start, 2), 2), start)
    main = graph.conv("main", inner, 2)
    side = graph.conv("side3", graph.conv("side2", graph.conv("side1", "input", 2), 2), 2)
    out = graph.node("Add", "add", *swapped(flip, main, side))
    found = find_residual_adds(graph.model(out))
    assert [(add.name, add.main) for add in found.matched] == [("inner", "b"), ("add", "main")]


def test_equal_depth_takes_the_first_operand_and_is_stable():
    graph = GraphBuilder()
    left, right = graph.conv("left", "input", 2), graph.conv("right", "input", 2)
    out = graph.node("Add", "add", right, left)
    assert the_match(graph.model(out)) == ResidualAdd("add", main="right", shortcut="left", shortcut_index=1)


def test_two_operands_that_no_convolution_made():
    graph = GraphBuilder()
    left = graph.node("Relu", "left", graph.conv("conv1", "input", 2))
    right = graph.node("Relu", "right", graph.conv("conv2", "input", 2))
    found = find_residual_adds(graph.model(graph.node("Add", "add", left, right)))
    assert found.matched == ()
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("add: neither operand is the output of a convolution that only this Add reads")


def test_a_convolution_read_twice_is_not_the_main_path():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    out = graph.node("Add", "add", conv, "input")
    assert find_residual_adds(graph.model(out, graph.node("Relu", "other", conv))).matched == ()


def test_a_convolution_read_twice_leaves_the_other_as_main_path():
    graph = GraphBuilder()
    deep = graph.conv("conv2", graph.conv("conv1", "input", 2), 2)
    shallow = graph.conv("shallow", "input", 2)
    out = graph.node("Add", "add", deep, shallow)
    match = the_match(graph.model(out, graph.node("Relu", "other", deep)))
    assert (match.main, match.shortcut) == ("shallow", "conv2")


def test_a_convolution_that_is_a_graph_output_is_not_the_main_path():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    found = find_residual_adds(graph.model(graph.node("Add", "add", conv, "input"), conv))
    assert found.matched == ()
    assert len(found.skipped) == 1


def test_a_convolution_added_to_itself():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    found = find_residual_adds(graph.model(graph.node("Add", "add", conv, conv)))
    assert found.matched == ()
    assert len(found.skipped) == 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("as_node", [False, True])
def test_an_added_constant_is_no_residual(flip, as_node):
    """Nor is it skipped with a reason: there is nothing to say about a bias."""
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    offset = graph.constant("offset", np.array([[[1.0]], [[2.0]]], np.float32))
    if as_node:
        graph.node("Constant", "offset", value=graph.initializers.pop("offset"))
    found = find_residual_adds(graph.model(graph.node("Add", "add", *swapped(flip, conv, offset))))
    assert (found.matched, found.skipped) == ((), ())


@pytest.mark.parametrize("flip", [False, True])
def test_shortcut_by_slicing_and_padding(flip):
    """Option A of He et al.: every second pixel, then zero channels; there is no convolution on the shortcut."""
    graph = GraphBuilder(channels=2)
    x = graph.node("Relu", "x", "input")
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", x, 4, stride=2)), 4)
    for name, values in (("starts", [0, 0]), ("ends", [99, 99]), ("axes", [2, 3]), ("steps", [2, 2])):
        graph.constant(name, np.array(values, np.int64))
    sliced = graph.node("Slice", "sliced", x, "starts", "ends", "axes", "steps")
    padded = graph.node("Pad", "padded", sliced, graph.constant("pads", np.array([0, 1, 0, 0, 0, 1, 0, 0], np.int64)))
    out = graph.node("Add", "add", *swapped(flip, conv2, padded))
    assert the_match(graph.model(out)) == ResidualAdd("add", "conv2", "padded", int(not flip))


def test_a_chain_of_600_blocks_needs_no_recursion_and_seconds_at_most():
    """As deep as ResNet-1202, with a projection in every tenth block."""
    graph = GraphBuilder(size=1)
    weight = graph.constant("weight", graph.random.normal(0, 1, (2, 2, 1, 1)).astype("float32"))
    x = "input"
    for index in range(600):
        side = graph.conv(f"side{index}", x, 2, kernel=1, weight=weight) if index % 10 == 0 else x
        main = graph.conv(
            f"a{index}", graph.conv(f"b{index}", x, 2, kernel=1, weight=weight), 2, kernel=1, weight=weight
        )
        x = graph.node("Add", f"add{index}", side, main)
    model = graph.model(x)
    begin = time.process_time()
    found = find_residual_adds(model)
    assert time.process_time() - begin < 5.0
    assert [add.main for add in found.matched] == [f"a{index}" for index in range(600)]


@pytest.mark.parametrize(
    ("kind", "blocks", "options", "last_conv"),
    [
        ("BasicBlock", (2, 1, 1), {}, "conv2"),
        ("Bottleneck", (1, 2, 1), {"groups": 32, "width_per_group": 4}, "conv3"),
    ],
)
def test_torchvision(kind, blocks, options, last_conv):
    """Blocks with and without a projection, as torchvision's ResNets of every depth have them."""
    import torch

    torch.manual_seed(SEED)
    model = export_random(three_stages_of_resnet(kind, blocks, **options), size=32)
    found = find_residual_adds(model)
    assert found.skipped == ()
    paths = [f"layer{stage}.{block}" for stage, count in enumerate(blocks, 1) for block in range(count)]
    assert [(add.name, add.main) for add in found.matched] == [(f"{path}.add", f"{path}.{last_conv}") for path in paths]
    nodes = {node.name: node for node in model.graph.node}
    for add in found.matched:
        assert nodes[add.name].input[add.shortcut_index] == add.shortcut != add.main
        block = add.name.removesuffix(".add")
        projected = f"{block}.downsample.0" in nodes
        assert (add.shortcut == f"{block}.downsample.0") == projected
        if not projected:
            assert add.shortcut == nodes[f"{block}.conv1"].input[0], "the tensor that the block's first Conv reads"
