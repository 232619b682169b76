"""offset_tensors: which activations can have a zero point, and which must not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx import ModelProto

from calibration.methods.dialect import Dialect
from calibration.placement.offset_tensors import OffsetTensor, offset_tensors
from calibration.placement.place import place


def found_in(model: ModelProto, *, pads: bool = False) -> dict[str, OffsetTensor]:
    return offset_tensors(model, place(model, Dialect.TENSORRT), pads=pads)


def two_bottlenecks() -> ModelProto:
    """A ResNet-50 in small: stem with MaxPool, a block with projection and one without."""
    build = GraphBuilder(channels=3)
    build.node("Relu", "relu", build.conv("stem", "input", 4))
    source = build.node("MaxPool", "pool", "relu", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in ("a", "b"):
        build.node("Relu", f"{block}.relu1", build.conv(f"{block}.conv1", source, 3, kernel=1))
        build.node("Relu", f"{block}.relu2", build.conv(f"{block}.conv2", f"{block}.relu1", 3))
        main = build.conv(f"{block}.conv3", f"{block}.relu2", 8, kernel=1)
        shortcut = build.conv("a.downsample", source, 8, kernel=1) if block == "a" else source
        source = build.node("Relu", f"{block}.relu3", build.node("Add", f"{block}.add", main, shortcut))
    return build.model(build.gemm("fc", source, 5))


def test_a_bottleneck_has_them_wherever_a_layer_of_1_by_1_reads() -> None:
    assert found_in(two_bottlenecks()) == {
        tensor.name: tensor
        for tensor in (
            OffsetTensor("pool", "relu", "stem", ("a.conv1", "a.downsample"), (), ()),
            OffsetTensor("a.relu2", "a.relu2", "a.conv2", ("a.conv3",), (), ()),
            OffsetTensor("a.downsample", "", "a.downsample", (), (), ("a.conv3",)),
            OffsetTensor("a.relu3", "a.relu3", "a.conv3", ("b.conv1",), (), ("b.conv3",)),
            OffsetTensor("b.relu2", "b.relu2", "b.conv2", ("b.conv3",), (), ()),
        )
    }, "not where a layer pads (relu1), and nothing that is not quantized (b.relu3)"


def test_with_pads_a_layer_that_pads_may_read_it() -> None:
    model = two_bottlenecks()
    more = {name: tensor for name, tensor in found_in(model, pads=True).items() if name not in found_in(model)}
    assert more == {
        f"{block}.relu1": OffsetTensor(
            f"{block}.relu1", f"{block}.relu1", f"{block}.conv1", (f"{block}.conv2",), (f"{block}.conv2",), ()
        )
        for block in ("a", "b")
    }


def one_tensor(finish: Callable[[GraphBuilder], str], rectifier: str = "Relu") -> ModelProto:
    """A convolution, a rectifier called `relu`, and what `finish` adds behind it."""
    build = GraphBuilder()
    limits = [build.constant("low", np.float32(0)), build.constant("high", np.float32(6))]
    build.node(rectifier, "relu", build.conv("before", "input", 4), *(limits if rectifier == "Clip" else ()))
    return build.model(finish(build))


def plain(build: GraphBuilder) -> str:
    return build.conv("after", "relu", 2, kernel=1)


def padded(build: GraphBuilder) -> str:
    return build.conv("after", "relu", 2)


def padded_by_name(build: GraphBuilder) -> str:
    weight = build.constant("w", np.ones((2, 4, 3, 3), np.float32))
    return build.node("Conv", "after", "relu", weight, auto_pad="SAME_UPPER")


def valid_by_name(build: GraphBuilder) -> str:
    weight = build.constant("w", np.ones((2, 4, 3, 3), np.float32))
    return build.node("Conv", "after", "relu", weight, auto_pad="VALID")


def scaled(build: GraphBuilder) -> str:
    plain(build)
    return build.node("Mul", "twice", build.conv("other", "relu", 4, kernel=1), build.node("Neg", "minus", "relu"))


def added_to_what_two_read(build: GraphBuilder) -> str:
    build.node("Relu", "inner", build.conv("middle", "relu", 4, kernel=1))
    build.node("Add", "add", build.conv("main", "inner", 4, kernel=1), "relu")
    return build.node("Sub", "difference", "add", "main")


def computed_bias(build: GraphBuilder) -> str:
    bias = build.node("Neg", "minus", build.constant("b", np.ones(2, np.float32)))
    return build.node("Conv", "after", "relu", build.constant("w", np.ones((2, 4, 1, 1), np.float32)), bias)


@pytest.mark.parametrize(
    ("finish", "can", "can_with_pads"),
    [
        (plain, True, True),
        (valid_by_name, True, True),
        (padded, False, True),
        (padded_by_name, False, False),
        (scaled, False, False),
        (added_to_what_two_read, False, False),
        (computed_bias, False, False),
    ],
)
@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
def test_every_reader_must_let_it(finish, can, can_with_pads, rectifier) -> None:
    model = one_tensor(finish, rectifier)
    assert ["relu" in found_in(model, pads=pads) for pads in (False, True)] == [can, can_with_pads]


def test_an_output_and_what_is_cut_below_zero_keep_their_values() -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("before", "input", 4))
    assert "relu" not in found_in(build.model(build.conv("after", "relu", 2, kernel=1), "relu"))
    build = GraphBuilder()
    limits = [build.constant("low", np.float32(-1)), build.constant("high", np.float32(6))]
    build.node("Clip", "relu", build.conv("before", "input", 4), *limits)
    assert found_in(build.model(build.conv("after", "relu", 2, kernel=1))) == {}


def test_tensors_that_share_a_scale_keep_their_zero() -> None:
    build = GraphBuilder()
    for name in ("left", "right"):
        build.node("Relu", f"{name}.relu", build.conv(name, "input", 4))
    build.channels[build.node("Concat", "both", "left.relu", "right.relu", axis=1)] = 8
    model = build.model(build.conv("after", "both", 2, kernel=1))
    assert place(model, Dialect.TENSORRT).shared_scales
    assert found_in(model) == {}
