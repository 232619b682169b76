"""Bytes per image, counted by hand; multiplications, as PyTorch counts them."""

from __future__ import annotations

import onnx
import pytest
from graph_builder import GraphBuilder, make_resnet8, three_convolutions

from calibration.errors import CalibrationError
from calibration.observers.tensor_bytes import (
    live_bytes_of_nodes,
    live_bytes_per_image,
    macs_per_image,
    made_bytes_per_image,
)


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


def test_macs_are_those_that_pytorch_counts() -> None:
    from exporter.models.model_facts import count_macs
    from exporter.networks.cifar_resnet import CifarResNet

    assert macs_per_image(make_resnet8()) == count_macs(CifarResNet(8).to("meta"), (32, 32))


@pytest.mark.parametrize(("op_type", "shape", "options"), [("MatMul", [5, 3], {}), ("Gemm", [3, 5], {"transB": 1})])
def test_macs_of_rows_by_hand(op_type: str, shape: list[int], options: dict[str, int]) -> None:
    """5 values in, 3 out, for each image."""
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 5), ("y", 3))]
    weight = onnx.helper.make_tensor("w", 1, shape, [0.0] * 15)
    node = onnx.helper.make_node(op_type, ["x", "w"], ["y"], **options)
    assert (
        macs_per_image(onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight]))) == 15
    )
