"""Bytes and multiplications per image, counted by hand and by a published figure."""

from __future__ import annotations

import onnx
import pytest
from graph_builder import GraphBuilder, make_resnet18, three_convolutions

from calibration.errors import CalibrationError
from calibration.observers.tensor_bytes import (
    live_bytes_of_nodes,
    live_bytes_per_image,
    made_bytes_per_image,
    multiply_adds,
)
from exporter.graph.weighted_ops import WEIGHTED_OPS


def test_made_bytes_by_hand() -> None:
    """4 + 4 + 3 + 3 + 2 channels of 64 positions and 4 bytes."""
    assert made_bytes_per_image(three_convolutions()) == (4 + 4 + 3 + 3 + 2) * 64 * 4


def test_live_bytes_by_hand() -> None:
    """The largest pair of neighbors: a and a.relu, 4 channels each, 64 positions, 4 bytes."""
    assert live_bytes_per_image(three_convolutions()) == (4 + 4) * 64 * 4
    assert live_bytes_per_image(onnx.shape_inference.infer_shapes(three_convolutions())) == (4 + 4) * 64 * 4


def test_live_bytes_of_every_node_by_hand() -> None:
    """What each node of a, its ReLU, b, its ReLU, c reads and makes."""
    channels = (2 + 4, 4 + 4, 4 + 3, 3 + 3, 3 + 2)
    assert live_bytes_of_nodes(three_convolutions()) == [count * 64 * 4 for count in channels]


def test_live_bytes_hold_a_shortcut_until_it_is_added() -> None:
    build = GraphBuilder(channels=4)
    build.conv("b", build.conv("a", "input", 4), 6)
    build.node("Add", "add", build.conv("c", "b", 4), "input")
    # While b and c are alive the input waits for the Add: 4 + 6 + 4 channels.
    assert live_bytes_per_image(build.model("add")) == (4 + 6 + 4) * 64 * 4


def test_live_bytes_count_tensors_of_other_types() -> None:
    build = GraphBuilder()
    build.node("Shape", "shape", build.conv("a", "input", 4))
    build.node("Reshape", "same", "a", "shape")
    build.channels["same"] = 4
    build.conv("b", "same", 1)
    # a, the four int64 of its shape, and its copy
    assert live_bytes_per_image(build.model("b")) == 2 * 4 * 64 * 4 + 4 * 8


def test_a_size_that_is_not_known_is_refused() -> None:
    model = three_convolutions()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(CalibrationError, match="size of tensor 'input' is not known"):
        live_bytes_per_image(model)
    with pytest.raises(CalibrationError, match="size of tensor 'a' is not known"):
        made_bytes_per_image(model)


def test_multiply_adds_by_hand():
    graph = GraphBuilder(channels=3, size=8)
    out = graph.gemm("fc", graph.conv("conv", "input", 4, stride=2), 5)
    assert multiply_adds(graph.model(out), ["conv", "fc"]) == {"conv": 4 * 4 * 4 * 3 * 9, "fc": 5 * 4}


@pytest.mark.parametrize("transposed", [True, False])
def test_a_gemm_reads_each_input_once_per_output(transposed):
    graph = GraphBuilder(channels=3)
    assert multiply_adds(graph.model(graph.gemm("fc", "input", 5, transB=int(transposed))), ["fc"]) == {"fc": 15}


def test_resnet18_has_the_published_number():
    """1.814 billion at 224 x 224. Source: torchvision, ResNet18_Weights.IMAGENET1K_V1 meta "_ops"."""
    model = make_resnet18()
    assert sum(
        multiply_adds(model, [node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS]).values()
    ) == pytest.approx(1.814e9, rel=1e-3)
