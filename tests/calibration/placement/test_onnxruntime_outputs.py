"""The dialect for ONNX Runtime: outputs are never rounded, and what has no right integer kernel stays in float."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from graph_builder import GraphBuilder
from plain_sessions import session_answers, sqnr_db

from calibration.methods.dialect import Dialect
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from runtimes.ort.adapter import OrtRuntime

IMAGES = np.random.default_rng(7).normal(size=(40, 3, 10, 10)).astype(np.float32)


def quantized(model):
    table = calibrate(model, [IMAGES], open_runtime=partial(OrtRuntime), dialect=Dialect.ONNXRUNTIME)
    return insert_qdq(model, table).model


def axes(graph, *values):
    return graph.constant("axes", np.int64(values))


HEADS = {
    "flatten": lambda graph, conv: graph.node("Flatten", "logits", conv),
    "reshape": lambda graph, conv: graph.node("Reshape", "logits", conv, graph.constant("shape", np.int64([0, -1]))),
    "squeeze": lambda graph, conv: graph.node("Squeeze", "logits", conv, axes(graph, 2, 3)),
    "mean": lambda graph, conv: graph.node("ReduceMean", "logits", conv, axes(graph, 2, 3), keepdims=0),
    "pool, flatten": lambda graph, conv: graph.node("Flatten", "logits", graph.node("GlobalAveragePool", "pool", conv)),
    "relu, pool, flatten": lambda graph, conv: graph.node(
        "Flatten", "logits", graph.node("GlobalAveragePool", "pool", graph.node("Relu", "relu", conv))
    ),
    "transpose, identity": lambda graph, conv: graph.node(
        "Identity", "logits", graph.node("Transpose", "moved", conv, perm=[0, 2, 3, 1])
    ),
    "softmax": lambda graph, conv: graph.node("Softmax", "logits", conv, axis=1),
}


def with_head(head, *, pooled=True):
    graph = GraphBuilder(channels=3, size=10)
    body = graph.node("Relu", "body", graph.conv("conv1", "input", 8))
    body = graph.node("GlobalAveragePool", "avgpool", body) if pooled else body
    graph.channels[body] = 8
    return graph, head(graph, graph.conv("classifier", body, 5, kernel=1))


@pytest.mark.parametrize("head", HEADS)
def test_logits_behind_a_convolution_stay_float(head):
    graph, output = with_head(HEADS[head], pooled="pool" not in head)
    model = graph.model(output, opset=20)
    file = quantized(model)
    logits = session_answers(file, IMAGES, plain=True)
    assert len(np.unique(logits)) > 150  # 40 images of 5 classes; 8 bits have 256 values for all, and fewer are used
    made = {node.output[0] for node in file.graph.node if node.op_type == "DequantizeLinear"}
    assert "classifier.dequantized" not in made
    assert {"input.dequantized", "body.dequantized"} <= made


@pytest.mark.parametrize("mover", ["Flatten", "Identity"])
def test_an_output_that_another_layer_reads_too(mover):
    """The moved tensor is given as it was computed; the layer behind reads its rounded copy."""
    graph = GraphBuilder(channels=3, size=10)
    features = graph.node("Relu", "features", graph.conv("conv1", "input", 4))
    given = graph.node(mover, "given", features)
    model = graph.model(graph.node("Flatten", "logits", graph.conv("conv2", features, 5)), given, opset=20)
    placement = place(model, Dialect.ONNXRUNTIME)
    assert {reader.node for reader in placement.activations["features"]} == {"conv2"}
    with OrtRuntime(quantized(model)) as runtime:
        assert len(np.unique(runtime.run({"input": IMAGES})["given"])) > 1000


def pooled(**attributes):
    graph = GraphBuilder(channels=3, size=10, seed=1)
    pool = graph.node("AveragePool", "pool", graph.node("Relu", "relu", graph.conv("conv1", "input", 8)), **attributes)
    return graph.model(graph.node("Flatten", "flat", graph.conv("conv2", pool, 8)), opset=20)


SIDES = ([0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1])


@pytest.mark.parametrize(("ceil", "counts"), list(itertools.product((0, 1), (0, 1))))
@pytest.mark.parametrize("pads", SIDES)
def test_average_pools_that_end_anywhere(pads, ceil, counts):
    model = pooled(kernel_shape=[3, 2], strides=[3, 3], pads=pads, ceil_mode=ceil, count_include_pad=counts)
    file = quantized(model)
    expected = session_answers(model, IMAGES, plain=False)
    written = sqnr_db(expected, session_answers(file, IMAGES, plain=False))
    assert sqnr_db(expected, session_answers(file, IMAGES, plain=True)) > written - 1


def test_a_dilated_average_pool_opens():
    model = pooled(kernel_shape=[2, 2], dilations=[2, 2])
    expected = session_answers(model, IMAGES, plain=False)
    assert sqnr_db(expected, session_answers(quantized(model), IMAGES, plain=True)) > 25


def test_other_average_pools_run_in_integers():
    for both in ({"ceil_mode": 1}, {"count_include_pad": 1}):
        placement = place(pooled(kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, **both), Dialect.ONNXRUNTIME)
        assert [reader.node for reader in placement.activations["relu"]] == ["pool"]
