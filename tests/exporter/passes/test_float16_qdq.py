"""INT8 Q/DQ with FP16 around it: types, values, scales that FP16 cannot hold, and TensorRT-RTX's builder."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.engines.build import build_engine
from exporter.errors import ExportError, UnsupportedOpsetError, WeightsError
from exporter.graph.onnx_graph import opset_of
from exporter.passes.float16_qdq import SMALLEST_SCALE, float16_qdq_from_float32
from runtimes.ort.adapter import OrtRuntime

WEIGHTS = np.array([[100, -50, 127], [3, 0, -127]], np.int8)  # [out, in]


def linear(scales, *, activation_scale=0.05, opset=19, shared=False, weights=WEIGHTS):
    """Q/DQ of the input, DQ of per-channel weights, Gemm, bias: y = x W^T + b."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.scale", "zero"], ["x.int8"], name="x.q"),
        helper.make_node("DequantizeLinear", ["x.int8", "x.scale", "zero"], ["x.dq"], name="x.dq"),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq"], name="w.dq", axis=0),
        helper.make_node("Gemm", ["x.dq", "w.dq", "b"], ["y" if not shared else "h"], name="fc", transB=1),
    ]
    if shared:
        nodes += [
            helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq2"], name="w.dq2", axis=0),
            helper.make_node("MatMul", ["h", "w.dq2"], ["y"], name="back"),
        ]
    constants = {
        "x.scale": np.float32(activation_scale),
        "zero": np.int8(0),
        "w": weights,
        "w.scale": np.asarray(scales, np.float32),
        "w.zero": np.zeros(len(scales), np.int8),
        "b": np.array([0.5, -1.0], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3 if shared else 2])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def constant(model, name):
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def run(model, x):
    with OrtRuntime(model, exact_qdq=True) as runtime:
        return runtime.run({"x": x})["y"]


X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32) * 2


def test_all_that_was_float32_is_float16_but_inputs_and_outputs():
    model = linear([0.01, 0.02])
    before = model.SerializeToString()
    result = float16_qdq_from_float32(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)
    graph = result.model.graph
    assert result.num_raised == 0
    assert {t.data_type for t in graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT8}
    assert [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)] == [TensorProto.FLOAT] * 2
    inner = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    assert inner["x.dq"] == inner["w.dq"] == TensorProto.FLOAT16
    np.testing.assert_array_equal(constant(result.model, "w"), WEIGHTS)


def test_values_are_those_of_float32_scales():
    model = linear([0.01, 0.02])
    expected, got = run(model, X), run(float16_qdq_from_float32(model).model, X)
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-3 * np.abs(expected).max())


def test_scales_that_float16_cannot_hold_are_raised_and_their_weights_quantized_anew():
    """By hand: 1e-6 / 2^-14 = 0.016384, so 100 -> 1.6384 -> 2, -50 -> -0.8192 -> -1, 127 -> 2.08 -> 2."""
    result = float16_qdq_from_float32(linear([1e-6, 0.02]))
    assert result.num_raised == 1
    np.testing.assert_array_equal(constant(result.model, "w"), [[2, -1, 2], WEIGHTS[1]])
    np.testing.assert_array_equal(constant(result.model, "w.scale"), np.float16([SMALLEST_SCALE, 0.02]))


def test_a_raised_scale_changes_no_weight_by_more_than_half_a_step():
    model = linear([4e-5, 1e-30])
    result = float16_qdq_from_float32(model).model
    before = constant(model, "w") * constant(model, "w.scale")[:, None]
    after = constant(result, "w") * constant(result, "w.scale").astype(np.float32)[:, None]
    assert np.abs(after - before).max() <= SMALLEST_SCALE / 2


def test_weights_read_twice_are_quantized_anew_once():
    result = float16_qdq_from_float32(linear([1e-6, 0.02], shared=True))
    assert result.num_raised == 1
    np.testing.assert_array_equal(constant(result.model, "w")[0], [2, -1, 2])


def test_a_tiny_activation_scale_is_raised():
    result = float16_qdq_from_float32(linear([0.01, 0.02], activation_scale=1e-9))
    assert result.num_raised == 1
    assert constant(result.model, "x.scale") == np.float16(SMALLEST_SCALE)


@pytest.mark.parametrize(
    ("scales", "activation", "coarse"),
    [
        ([1e-6, 0.02], 0.05, {}),  # a channel that weighs nothing beside the other: nothing is lost
        ([2e-5, 3e-5], 0.05, {}),  # 127 steps of 3e-5 are 62 of 6.1e-5: 40 dB are left
        ([1e-6, 1e-6], 0.05, {"w": 2}),
        ([1e-8, 1e-9], 0.05, {"w": 0}),
        ([0.01, 0.02], 1e-6, {"x": 2}),
        ([0.01, 0.02], 1e-5, {}),
    ],
)
def test_what_raising_leaves_too_few_levels_is_named(scales, activation, coarse):
    assert float16_qdq_from_float32(linear(scales, activation_scale=activation)).coarse == coarse


def test_opset_17_is_refused():
    with pytest.raises(UnsupportedOpsetError, match=r"FP16 scales need opset 19, the model has 17"):
        float16_qdq_from_float32(linear([0.01, 0.02], opset=17))


def test_a_scale_that_float16_ends_below_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"'x\.scale' holds 1e\+06"):
        float16_qdq_from_float32(linear([0.01, 0.02], activation_scale=1e6))


def test_a_computed_scale_is_refused():
    model = linear([0.01, 0.02])
    model.graph.node.insert(0, helper.make_node("Abs", ["x.scale"], ["computed"], name="abs"))
    model.graph.node[1].input[1] = "computed"
    with pytest.raises(ExportError, match=r"scale 'computed' of 'x\.q' is no constant"):
        float16_qdq_from_float32(model)


@pytest.mark.tensorrt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_tensorrt_rtx_builds_it(tmp_path):
    result = float16_qdq_from_float32(linear([0.01, 1e-7])).model
    assert opset_of(result) == 19
    onnx.save_model(result, tmp_path / "model.onnx")
    assert len(build_engine(tmp_path / "model.onnx", flavor="rtx")) > 1000
