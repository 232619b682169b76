"""An INT8 file in an ONNX Runtime session without options answers as it is written, in both dialects."""

from functools import partial

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder

from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.pipeline.quantize_model import quantize
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import why_int8_saturates
from runtimes.ort.plain_session import PlainRuntime

IMAGES = np.random.default_rng(5).normal(size=(16, 3, 8, 8)).astype(np.float32)
exact = partial(OrtRuntime, exact_qdq=True)


def network(*, dead=None, hidden=False):
    """Three convolutions, a hidden linear layer if wanted, a head; `dead` is what four channels' weights are times."""
    graph = GraphBuilder(channels=3, seed=2)
    first = graph.node("Relu", "a.relu", graph.conv("a", "input", 8))
    second = graph.node("Relu", "b.relu", graph.conv("b", first, 8))
    last = graph.node("Relu", "c.relu", graph.conv("c", second, 8))
    if hidden:
        graph.gemm("d", last, 8, transB=1)
        last = graph.node("Relu", "d.relu", "d")
        weight = graph.constant("head.weight", graph.random.normal(0, 0.3, (5, 8)).astype(np.float32))
        graph.node("Gemm", "head", last, weight, graph.constant("head.bias", np.ones(5, np.float32)), transB=1)
    else:
        graph.gemm("head", last, 5, transB=1)
    model = graph.model("head", opset=19)
    if dead is not None:
        for tensor in model.graph.initializer:
            layer, _, kind = tensor.name.partition(".")
            values = onnx.numpy_helper.to_array(tensor).copy()
            if layer == ("d" if hidden else "b"):
                values[:4] = np.float32([1, 2, 0.5, 1.5]) if kind == "bias" else values[:4] * np.float32(dead)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def decibel(expected, got):
    return float(10 * np.log10(np.square(expected, dtype=np.float64).sum() / np.square(expected - got).sum()))


def answer(open_runtime, model):
    with open_runtime(model) as runtime:
        (output,) = runtime.run({"input": IMAGES}).values()
    return output.astype(np.float64)


def assert_plain_session_is_right(model, dialect, effort=0):
    result = quantize(
        model, [IMAGES], open_runtime=OrtRuntime, open_exact=exact, dialect=dialect, effort=EFFORTS[effort]
    )
    quantized = result.quantized.model
    reference, written = answer(OrtRuntime, model), answer(exact, quantized)
    saturates = bool(why_int8_saturates())  # then only the option can help; tests/runtimes/ort has that
    plain = answer(OrtRuntime if saturates else PlainRuntime, quantized)
    assert np.isfinite(plain).all()
    assert decibel(reference, written) > 25
    assert decibel(reference, plain) > decibel(reference, written) - 1
    return quantized


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize("dead", [0.0, 1e-30, 1e-9, 1e-6, 1e-4])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_channels_whose_weights_are_almost_zero(dialect, dead, effort):
    assert_plain_session_is_right(network(dead=dead), dialect, effort)


@pytest.mark.parametrize("dead", [0.0, 1e-9])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_rows_of_a_hidden_linear_layer_that_are_almost_zero(dialect, dead):
    assert_plain_session_is_right(network(dead=dead, hidden=True), dialect)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_channel_of_zeros_without_a_bias_keeps_scale_one(dialect):
    """TensorRT takes no scale of 0, and a scale near the least float32 has nothing to be good for."""
    model = network(dead=0.0)
    for tensor in model.graph.initializer:
        if tensor.name == "b.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(8, np.float32), tensor.name))
    quantized = assert_plain_session_is_right(model, dialect)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    assert (constants["b.weight.scale"] > 0).all()
    if dialect is Dialect.TENSORRT:
        np.testing.assert_array_equal(constants["b.weight.scale"][:4], 1.0)
