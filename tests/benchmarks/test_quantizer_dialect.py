"""Which dialect a file speaks, on graphs written line by line; TensorRT-RTX's own parser as the second source."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from graph_builder import GraphBuilder

from benchmarks.quantizer_dialect import FLOAT, OTHER, TENSORRT, dialect_of
from calibration import calibrate, insert_qdq
from runtimes import OrtRuntime

INT8_ZERO, SCALE = np.int8(0), np.float32(0.02)


def quantized_conv(*, zero=None, weight_zero=INT8_ZERO, int32_bias=False, activation_scale=SCALE):
    """input -> Q -> DQ -> Conv(weight int8 -> DQ); zero None leaves the third input out."""
    graph = GraphBuilder(channels=2)
    scale = graph.constant("x.scale", activation_scale)
    zeros = () if zero is None else (graph.constant("x.zero", zero),)
    axis = {"axis": 1} if np.ndim(activation_scale) else {}
    q = graph.node("QuantizeLinear", "q", "input", scale, *zeros, **axis)
    dq = graph.node("DequantizeLinear", "dq", q, scale, *zeros, **axis)
    weight = graph.constant("w", graph.random.integers(-127, 128, (4, 2, 3, 3)).astype(np.asarray(weight_zero).dtype))
    weight_scale = graph.constant("w.scale", np.full(4, 0.01, np.float32))
    weight_zeros = graph.constant("w.zero", np.full(4, weight_zero))
    inputs = [dq, graph.node("DequantizeLinear", "w.dq", weight, weight_scale, weight_zeros, axis=0)]
    if int32_bias:
        bias = graph.constant("b", np.arange(4, dtype=np.int32))
        bias_scale = graph.constant("b.scale", np.full(4, 0.0002, np.float32))
        inputs.append(graph.node("DequantizeLinear", "b.dq", bias, bias_scale, axis=0))
    graph.channels["conv"] = 4
    graph.node("Conv", "conv", *inputs, pads=[1] * 4)
    return graph.model("conv")


CASES = {
    "ours": (quantized_conv(zero=np.int8(0)), TENSORRT, ()),
    "unsigned": (quantized_conv(zero=np.uint8(0)), OTHER, ("UINT8 activations",)),
    "unsigned by default": (quantized_conv(), OTHER, ("UINT8 activations",)),
    "asymmetric": (quantized_conv(zero=np.int8(3)), OTHER, ("asymmetric activations",)),
    "weights": (quantized_conv(zero=np.int8(0), weight_zero=np.int8(1)), OTHER, ("asymmetric weights",)),
    "bias": (quantized_conv(zero=np.int8(0), int32_bias=True), OTHER, ("INT32 bias",)),
    "per channel": (
        quantized_conv(zero=np.zeros(2, np.int8), activation_scale=np.full(2, 0.02, np.float32)),
        OTHER,
        ("several scales per activation",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_dialect(case):
    model, name, reasons = CASES[case]
    dialect = dialect_of(model)
    assert (dialect.name, dialect.reasons, dialect.num_integer, dialect.num_weighted) == (name, reasons, 1, 1)


@pytest.mark.tensorrt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("case", ["ours", "asymmetric", "bias"])
def test_tensorrt_rtx_parses_what_is_called_tensorrt(case):
    """UINT8 and scales per channel are not here: its parser takes them, UINT8 with a warning and as INT8."""
    import tensorrt_rtx as trt

    model, name, _ = CASES[case]
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)  # held here: the parser does not keep it alive
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()) == (name == TENSORRT)


def test_float_layers_are_counted_as_float():
    graph = GraphBuilder()
    graph.gemm("fc", graph.conv("conv", "input", 4), 3, transB=1)
    dialect = dialect_of(graph.model("fc"))
    assert (dialect.name, dialect.num_integer, dialect.num_weighted) == (FLOAT, 0, 2)


def test_what_we_write_is_tensorrt_s():
    graph = GraphBuilder()
    graph.gemm("fc", graph.node("Relu", "relu", graph.conv("conv", "input", 4)), 3, transB=1)
    model = graph.model("fc", opset=20)
    images = np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(np.float32)
    table = calibrate(model, iter([images]), open_runtime=OrtRuntime)
    dialect = dialect_of(insert_qdq(model, table).model)
    assert (dialect.name, dialect.num_integer, dialect.num_weighted) == (TENSORRT, 2, 2)


def test_operators_of_other_domains_and_integer_operators():
    import onnx

    model = quantized_conv(zero=np.int8(0))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(onnx.helper.make_node("QGemm", ["q"], ["other"], domain="com.microsoft"))
    model.graph.node.append(onnx.helper.make_node("ConvInteger", ["q", "w"], ["whole"]))
    dialect = dialect_of(model)
    assert dialect.reasons == ("com.microsoft::QGemm", "operator ConvInteger")
