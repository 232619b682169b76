"""What is said of a weight: its scales, its axes, or that it is another; never that a 1x1 kernel is transposed."""

import numpy as np
import pytest
from onnx import helper

from calibration.diagnostics.block_causes import causes_of
from calibration.diagnostics.recover_channel_scales import LayerConstants

RANDOM = np.random.default_rng(0)
STEPS = np.geomspace(0.02, 0.2, 16)  # one scale per channel, a decade apart


def causes(op_type, weight, got, **attributes):
    node = helper.make_node(op_type, ["x", "w"], ["y"], name="layer", **attributes)
    return causes_of([LayerConstants(node, (weight, None), (got, None))], ())


def quantized(weight, steps, *, axis=0):
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.rint(weight / steps.reshape(shape)).clip(-127, 127)


LAYERS = {
    "1x1": ("Conv", (16, 8, 1, 1), 0, {}),
    "square 1x1": ("Conv", (16, 16, 1, 1), 0, {}),
    "3x3": ("Conv", (16, 8, 3, 3), 0, {}),
    "one by three": ("Conv", (16, 8, 1, 3), 0, {}),
    "depthwise": ("Conv", (16, 1, 3, 3), 0, {"group": 16}),
    "linear": ("Gemm", (16, 16), 0, {"transB": 1}),
    "linear, the other way": ("Gemm", (16, 16), 1, {}),
}


@pytest.mark.parametrize(("op_type", "shape", "axis", "attributes"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("wrong", ["averaged", "shuffled"])
def test_wrong_scales_are_called_that(op_type, shape, axis, attributes, wrong):
    spread = [1] * len(shape)
    spread[axis] = -1
    weight = RANDOM.normal(size=shape) * 40 * STEPS.reshape(spread)
    levels = quantized(weight, STEPS, axis=axis)
    steps = np.full_like(STEPS, STEPS.mean()) if wrong == "averaged" else np.roll(STEPS, 5)
    assert causes(op_type, weight, levels * STEPS.reshape(spread), **attributes) == ()
    (cause,) = causes(op_type, weight, levels * steps.reshape(spread), **attributes)
    assert "scales of layer's weight (one per channel) are wrong" in cause


@pytest.mark.parametrize("shape", [(16, 16, 1, 1), (8, 16, 1, 1), (16, 8, 1, 1)])
def test_a_1x1_kernel_is_never_transposed_in_its_last_axes(shape):
    (cause,) = causes("Conv", RANDOM.normal(size=shape), RANDOM.normal(size=shape))
    assert "is another" in cause


@pytest.mark.parametrize(
    ("op_type", "shape", "order"),
    [("Conv", (8, 8, 3, 3), (0, 1, 3, 2)), ("Conv", (16, 16, 1, 1), (1, 0, 2, 3)), ("Gemm", (16, 16), (1, 0))],
)
def test_a_transposed_weight_still_is(op_type, shape, order):
    weight = RANDOM.normal(size=shape)
    (cause,) = causes(op_type, weight, weight.transpose(order))
    assert f"is transposed: its axes are in order {list(order)}" in cause


def test_one_wrong_scale_for_all():
    weight = RANDOM.normal(size=(16, 8, 3, 3))
    (cause,) = causes("Conv", weight, 4 * weight)
    assert "is 4 times the reference's: its scale is wrong" in cause
