"""find_blocks: names as in PyTorch."""

from __future__ import annotations

import pytest
from graph_builder import GraphBuilder, make_resnet8
from onnx import ModelProto

from calibration.mixed_precision.blocks import find_blocks
from calibration.placement.for_tensorrt import place_qdq


def layers_of(model: ModelProto) -> list[str]:
    weights = {weight.name for weight in place_qdq(model).weights}
    return [node.name for node in model.graph.node if len(node.input) > 1 and node.input[1] in weights]


def blocks_of(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Chain 1x1 convolutions of these names and return block to layers."""
    graph = GraphBuilder()
    tensor = "input"
    for name in names:
        tensor = graph.conv(name, tensor, 2, kernel=1)
    return {block.name: block.layers for block in find_blocks(graph.model(tensor), names)}


@pytest.fixture(scope="module")
def resnet8() -> ModelProto:
    return make_resnet8()


def test_a_resnet_has_a_stem_its_residual_blocks_and_the_classifier(resnet8):
    blocks = find_blocks(resnet8, layers_of(resnet8))
    assert [(block.name, len(block.layers)) for block in blocks] == [
        ("stem", 1),
        ("layer1.0", 2),
        ("layer2.0", 3),
        ("layer3.0", 3),
        ("fc", 1),
    ]


def test_every_node_is_in_one_block(resnet8):
    blocks = find_blocks(resnet8, layers_of(resnet8))
    nodes = [node for block in blocks for node in block.nodes]
    assert sorted(nodes) == sorted(node.name for node in resnet8.graph.node)
    by_name = {block.name: block.nodes for block in blocks}
    assert "layer1.0.add" in by_name["layer1.0"]
    assert "relu" in by_name["stem"]
    assert set(by_name["fc"]) > {"fc"}, "pooling goes with the classifier"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["features.0.0", "features.1.conv.0.0", "features.1.conv.1", "features.2.0"],
            ["stem", "features.1", "features.2.0"],
        ),
        (
            ["stages.0.blocks.0.a", "stages.0.blocks.0.b", "stages.0.blocks.1.a", "stages.0.blocks.1.b"],
            ["stages.0.blocks.0", "stages.0.blocks.1"],
        ),
        (["s1.b1.conv1", "s1.b1.conv2", "s1.b2.conv1", "s1.b2.conv2", "head"], ["s1.b1", "s1.b2", "head"]),
        (["conv1.0", "conv1.3", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample.0"], ["conv1", "layer1.0"]),
        (["first", "second"], ["first", "second"]),
        (["features.0", "features.3"], ["features.0", "features.3"]),
    ],
    ids=["mobilenet", "timm stages", "regnet", "deep stem", "no blocks", "vgg"],
)
def test_other_networks_names(names, expected):
    assert list(blocks_of(names)) == expected


def test_blocks_without_a_quantized_layer_are_left_out(resnet8):
    assert [block.name for block in find_blocks(resnet8, ["layer2.0.conv1", "fc"])] == ["layer2.0", "fc"]
