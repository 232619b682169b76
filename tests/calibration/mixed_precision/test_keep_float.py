"""Names for --keep-float: nodes, PyTorch's modules, other exporters' paths; and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import Dialect
from calibration.errors import PlacementError
from calibration.mixed_precision.keep_float import nodes_named
from calibration.placement.place import place

LAYERS = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer10.0.conv1")


def chain(*names: str):
    """Return a model of one 3x3 Conv and one Relu per name, called so."""
    generator = np.random.default_rng(0)
    nodes, weights, read = [], [], "input"
    for number, name in enumerate(names):
        weight = generator.normal(size=(4, 4, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("Conv", [read, f"w{number}"], [f"c{number}"], name=name, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"{name}.relu"))
        read = f"r{number}"
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4, 8, 8])
    output = helper.make_tensor_value_info(read, TensorProto.FLOAT, ["n", 4, 8, 8])
    return helper.make_model(helper.make_graph(nodes, "chain", [image], [output], weights))


def convolutions(nodes) -> list[str]:
    return [name for name in nodes if not name.endswith("relu")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer1.0.conv2", ["layer1.0.conv2"]),
        ("layer1.0", ["layer1.0.conv1", "layer1.0.conv2"]),
        ("layer1", ["layer1.0.conv1", "layer1.0.conv2"]),  # not layer10
        ("stem", ["conv1"]),
    ],
)
def test_a_layer_a_block_and_the_stem(name, expected):
    assert convolutions(nodes_named(chain(*LAYERS), [name])[name]) == expected


def test_the_path_of_another_exporter_is_named_as_in_pytorch_or_as_it_stands():
    path = "/layer1/layer1.0/conv1/Conv"
    model = chain(path, "/fc/Conv")
    for name in (path, "layer1.0.conv1", "layer1.0"):
        assert path in nodes_named(model, [name])[name]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        PlacementError, match=r"^--keep-float: nothing is called 'layer1\.0\.conv3'.*nearest: layer1\.0\.conv"
    ):
        nodes_named(chain(*LAYERS), ["layer1.0.conv3"])


def test_what_could_not_be_kept_is_not_proposed():
    with pytest.raises(PlacementError, match=r"nothing is called 'layer1\.0\.conv1\.rel'") as refused:
        nodes_named(chain(*LAYERS), ["layer1.0.conv1.rel"])
    assert "nearest: layer1.0.conv1" in str(refused.value)
    assert ".relu" not in str(refused.value)


def test_what_has_no_weights_is_refused():
    with pytest.raises(PlacementError, match=r"'conv1\.relu' is Relu: it has no weights"):
        nodes_named(chain(*LAYERS), ["conv1.relu"])


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_named_layer_stays_in_float_and_its_neighbors_do_not(dialect):
    model = chain(*LAYERS)
    kept = nodes_named(model, ["layer1.0.conv1"])["layer1.0.conv1"]
    quantized = {weight.name for weight in place(model, dialect, kept).weights}
    assert "w1" not in quantized
    assert {"w0", "w2"} <= quantized
