"""Layers kept in float between pairs: a plain session of ONNX Runtime computes them in float, too."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import ModelProto, numpy_helper
from quantized_graphs import QuantizedBuilder, Style

from calibration.methods.dialect import Dialect
from calibration.qdq.float_layers import exact_levels, guard_float_layers
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from runtimes.ort.adapter import OrtRuntime

SIZES = np.array([1, 0.1, 0.01, 0.001], np.float32)
"""Of the channels that the layer in the middle gives, from what INT8 of one scale keeps to what it loses."""


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)


def answer(model: ModelProto, level: str) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images()})[0].astype(np.float64)


def network(kind: str, *, bias: bool) -> ModelProto:
    """Three layers; the last makes up for the sizes of what the middle one, `kept`, gives."""
    graph = GraphBuilder(channels=4)
    read = graph.node("Relu", "relu", graph.conv("first", "input", 4))
    draw = np.random.default_rng(1).normal
    offset = [graph.constant("kept.b", (draw(0, 0.1, 4) * SIZES).astype(np.float32))] if bias else []
    shape = (4, 4, 3, 3)
    sizes = SIZES.reshape((4, 1, 1, 1) if kind == "Conv" else (1, 4, 1, 1))
    weight = graph.constant("kept.w", (draw(0, 0.3, shape) * sizes).astype(np.float32))
    graph.node(kind, "kept", read, weight, *offset, pads=[1, 1, 1, 1])
    last = graph.constant("last.w", (draw(0, 0.3, shape) / SIZES.reshape(1, 4, 1, 1)).astype(np.float32))
    graph.node("Conv", "last", graph.node("Relu", "relu2", "kept"), last, pads=[1, 1, 1, 1])
    return graph.model(graph.node("Flatten", "out", graph.node("GlobalAveragePool", "mean", "last")))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_plain_session_answers_as_written(kind: str, bias: bool) -> None:
    model = network(kind, bias=bias)
    table = calibrate(model, [images()], open_runtime=OrtRuntime, dialect=Dialect.ONNXRUNTIME)
    quantized = insert_qdq(model, table, keep_float=["kept"]).model
    (kept,) = [node for node in quantized.graph.node if node.name == "kept"]
    assert "kept.w" in kept.input, "its weights are float"
    written = answer(quantized, "DISABLE_ALL")
    distances = [np.abs(answer(quantized, f"ENABLE_{level}") - written).max() for level in ("BASIC", "EXTENDED", "ALL")]
    assert max(distances) < 0.02 * np.abs(written).max()
    unguarded = next(node for node in quantized.graph.node if node.name == "kept")
    del unguarded.input[2:]  # without a bias, as one that ONNX Runtime takes
    written = answer(quantized, "DISABLE_ALL")
    assert np.abs(answer(quantized, "ENABLE_ALL") - written).max() > 0.05 * np.abs(written).max(), "the bias does it"


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gemm_between_pairs(bias: bool, turned: int) -> None:
    graph = QuantizedBuilder(Style(zero=np.uint8(7)), channels=4)
    sizes = np.array([1, 0.1, 0.01, 0.001, 1, 1], np.float32)
    weight = (graph.random.normal(size=(256, 6)) * sizes).astype(np.float32)
    offset = [graph.constant("kept.b", np.float32([1e-4] * 6))] if bias else []
    read = graph.pair(graph.node("Flatten", "flat", "input"))
    graph.node("Gemm", "kept", read, graph.constant("kept.w", weight.T if turned else weight), *offset, transB=turned)
    model = graph.model(graph.pair("kept", scale=np.float32(1e-4)), opset=19)
    written = answer(model, "DISABLE_ALL")
    assert np.abs(answer(model, "ENABLE_ALL") - written)[:, 3].max() > 1e-3
    assert guard_float_layers(model.graph) == 1
    assert np.array_equal(answer(model, "DISABLE_ALL"), written)
    assert np.abs(answer(model, "ENABLE_ALL") - written)[:, 3].max() < 2e-4


def test_tensorrt_s_dialect_keeps_its_float_bias() -> None:
    """TensorRT reads no INT32."""
    model = network("Conv", bias=True)
    table = calibrate(model, [images()], open_runtime=OrtRuntime)
    quantized = insert_qdq(model, table, keep_float=["kept"]).model
    assert next(node.input[2:] for node in quantized.graph.node if node.name == "kept") == ["kept.b"]


def test_a_layer_whose_output_something_else_reads_is_left_alone() -> None:
    """ONNX Runtime does nothing to it, either."""
    model = network("Conv", bias=True)
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "relu2"
    model.graph.output[1].type.Clear()
    table = calibrate(model, [images()], open_runtime=OrtRuntime, dialect=Dialect.ONNXRUNTIME)
    quantized = insert_qdq(model, table, keep_float=["kept"]).model
    assert next(node.input[2:] for node in quantized.graph.node if node.name == "kept") == ["kept.b"]


def test_levels_are_the_numbers_to_the_bit() -> None:
    random = np.random.default_rng(2)
    values = (random.normal(size=2000) * 10.0 ** random.uniform(-30, 30, 2000)).astype(np.float32)
    values = np.concatenate([values, np.float32([0, -0.0, 1, -1, 3.4e38, 2.0**-120])])
    levels, steps = exact_levels(values)
    assert (levels.dtype, steps.dtype) == (np.int32, np.float32)
    assert np.array_equal(levels.astype(np.float32) * steps, values)
    assert np.abs(levels).max() <= 2**24
    assert numpy_helper.to_array(numpy_helper.from_array(steps)).min() > 0
