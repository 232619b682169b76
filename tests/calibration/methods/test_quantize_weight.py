"""quantize_weight against hand values, the ONNX reference evaluator and PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calibration.errors import CalibrationError
from calibration.methods.quantize_weight import MIN_SCALE, QMAX, quantize_weight, widen_scales

SEED = 20260104


def test_hand_values_per_channel():
    weight = np.array([[127.0, -64.0, 0.0], [-2.54, 1.27, 0.02]], np.float32)
    result = quantize_weight(weight, axis=0)
    assert result.values.tolist() == [[127, -64, 0], [-127, 64, 1]]  # 1.27 / 0.02 = 63.5, to even
    assert result.scale.tolist() == [1.0, float(np.float32(0.02))]
    assert (result.values.dtype, result.scale.dtype, result.axis) == (np.int8, np.float32, 0)


def test_rounds_half_to_even():
    """Scale 1: halves go to the even neighbor, on both sides of zero."""
    weight = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 0.51]], np.float32)
    assert quantize_weight(weight, axis=0).values.tolist() == [[127, 0, 2, 2, 0, -2, -2, 0, 1]]


def test_the_largest_level_is_127_on_both_sides():
    rng = np.random.default_rng(SEED)
    weight = rng.normal(size=(500, 7)).astype(np.float32)
    values = quantize_weight(weight, axis=0).values
    assert values.min() == -QMAX
    assert np.array_equal(np.abs(values.astype(int)).max(axis=1), np.full(500, QMAX))


def test_axis_1():
    weight = np.array([[1.0, 200.0], [-4.0, 50.0]], np.float32)
    result = quantize_weight(weight, axis=1)
    assert result.scale.tolist() == [float(np.float32(4 / 127)), float(np.float32(200 / 127))]
    assert result.values.tolist() == [[32, 127], [-127, 32]]
    transposed = quantize_weight(weight.T, axis=0)
    assert np.array_equal(result.values, transposed.values.T)
    assert np.array_equal(result.scale, transposed.scale)


def test_axis_of_a_convolution_weight():
    weight = np.random.default_rng(SEED).normal(size=(4, 3, 5, 2)).astype(np.float32)
    assert quantize_weight(weight, axis=0).scale.shape == (4,)
    assert np.allclose(quantize_weight(weight, axis=0).scale, np.abs(weight).max(axis=(1, 2, 3)) / 127)


def test_a_channel_of_zeros_gets_scale_1():
    weight = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    result = quantize_weight(weight, axis=0)
    assert result.scale[0] == 1.0
    assert result.values.tolist() == [[0, 0], [64, -127]]  # 1 / (2 / 127) = 63.5


@pytest.mark.parametrize("tiny", [1e-40, 1e-45, 1.4e-36])
def test_a_channel_too_small_for_a_normal_scale_is_stored_as_zeros(tiny):
    """A denormal scale may be flushed to zero, and TensorRT asserts scale > 0."""
    weight = np.array([[tiny, -tiny]], np.float32)
    assert np.float64(np.float32(tiny)) / 127 < MIN_SCALE
    result = quantize_weight(weight, axis=0)
    assert (result.scale.tolist(), result.values.tolist()) == ([1.0], [[0, 0]])


def test_the_smallest_normal_scale_is_kept():
    weight = np.array([[127 * 2.0**-126, -(2.0**-126)]], np.float32)
    result = quantize_weight(weight, axis=0)
    assert (result.scale.tolist(), result.values.tolist()) == ([2.0**-126], [[127, -1]])


def test_the_largest_float32():
    weight = np.array([[np.finfo(np.float32).max, -1.0]], np.float32)
    result = quantize_weight(weight, axis=0)
    assert np.isfinite(result.scale).all()
    assert result.values.tolist() == [[127, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(bad):
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = bad
    with pytest.raises(CalibrationError, match="NaN or Inf"):
        quantize_weight(weight, axis=0)


def test_the_weight_is_not_changed():
    weight = np.random.default_rng(SEED).normal(size=(3, 4)).astype(np.float32)
    before = weight.copy()
    weight.flags.writeable = False
    quantize_weight(weight, axis=0)
    assert np.array_equal(weight, before)


@pytest.mark.parametrize("axis", [0, 1])
def test_against_the_onnx_reference_evaluator(axis):
    weight = (np.random.default_rng(SEED).standard_t(3, size=(16, 8, 3, 3)) * 0.1).astype(np.float32)
    result = quantize_weight(weight, axis=axis)
    node = helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=axis)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, result.scale.shape),
            helper.make_tensor_value_info("z", TensorProto.INT8, result.scale.shape),
        ],
        [helper.make_tensor_value_info("q", TensorProto.INT8, weight.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    zero = np.zeros(result.scale.shape, np.int8)
    expected = ReferenceEvaluator(model).run(None, {"w": weight, "s": result.scale, "z": zero})[0]
    assert np.array_equal(result.values, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_against_pytorch(axis):
    """PyTorch multiplies by the reciprocal of the scale, so a value at a half may go the other way."""
    import torch

    weight = (np.random.default_rng(SEED).normal(size=(16, 8, 3, 3)) * 0.1).astype(np.float32)
    result = quantize_weight(weight, axis=axis)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight),
        torch.from_numpy(result.scale),
        torch.zeros(len(result.scale), dtype=torch.int32),
        axis,
        -127,
        127,
    ).numpy()
    shape = [-1 if place == axis else 1 for place in range(4)]
    got = result.values * result.scale.reshape(shape)
    different = got != expected
    assert different.mean() < 1e-3
    assert np.abs(got - expected).max() <= result.scale.max() * 1.001


def test_the_error_is_half_a_step_at_most():
    weight = np.random.default_rng(SEED).normal(size=(64, 100)).astype(np.float32)
    result = quantize_weight(weight, axis=0)
    step = result.scale[:, np.newaxis].astype(np.float64)
    assert (np.abs(result.values * step - weight) <= step * (0.5 + 1e-5)).all()


def test_scales_are_widened_where_they_are_too_narrow_only():
    weight = quantize_weight(np.array([[1.27, 0.5], [12.7, -4.0], [0.0, 0.0], [0.0, 0.0]], np.float32), axis=0)
    widened = widen_scales(weight, np.array([0.0, 0.4, 0.25, 0.0]))
    assert widened.values.tolist() == [[127, 50], [32, -10], [0, 0], [0, 0]]
    assert widened.scale.tolist() == pytest.approx([0.01, 0.4, 0.25, 1.0])
    assert widened.axis == 0
    columns = widen_scales(quantize_weight(weight.values.T.astype(np.float32), axis=1), np.array([0.0, 4.0, 0.0, 0.0]))
    assert columns.scale.tolist() == pytest.approx([1.0, 4.0, 1.0, 1.0])
    assert columns.values[:, 1].tolist() == [32, -10]
