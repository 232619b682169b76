"""find_gates on hand-built branches."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder

from calibration.placement.channel_gates import find_gates
from exporter.graph.onnx_graph import infer_shapes


def gates(graph: GraphBuilder, *outputs: str, opset: int = 20):
    return find_gates(infer_shapes(graph.model(*outputs, opset=opset)))


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
def test_squeeze_and_excitation(pool):
    graph = GraphBuilder(channels=4)
    axes = [graph.constant("axes", np.array([-1, -2], np.int64))] if pool == "ReduceMean" else []
    x = graph.node(pool, "pool", "input", *axes)
    x = graph.conv("expand", graph.node("Relu", "relu", graph.conv("reduce", x, 2, kernel=1)), 4, kernel=1)
    out = graph.node("Mul", "scale", "input", graph.node("Sigmoid", "gate", x))
    found = gates(graph, graph.conv("next", out, 2))
    assert found.operand == {"scale": 1}
    assert found.layers == {"reduce", "expand"}
    assert {"pool", "reduce", "relu", "expand", "gate"} == found.pooled


def test_eca_with_a_convolution_over_channels():
    """Pool without kept axes, reshape to [N, 1, C], Conv1d, back to [N, C, 1, 1]."""
    graph = GraphBuilder(channels=4)
    axes = graph.constant("axes", np.array([2, 3], np.int64))
    flat = graph.constant("flat", np.array([-1, 1, 4], np.int64))
    back = graph.constant("back", np.array([-1, 4, 1, 1], np.int64))
    weight = graph.constant("w", np.ones((1, 1, 3), np.float32))
    x = graph.node("Reshape", "line", graph.node("ReduceMean", "pool", "input", axes, keepdims=0), flat)
    x = graph.node(
        "Reshape", "column", graph.node("Sigmoid", "gate", graph.node("Conv", "conv", x, weight, pads=[1, 1])), back
    )
    found = gates(graph, graph.node("Mul", "scale", x, "input"))
    assert (found.operand, found.layers) == ({"scale": 0}, {"conv"})


def test_a_head_is_no_gate():
    graph = GraphBuilder(channels=4)
    found = gates(graph, graph.gemm("fc", "input", 5))
    assert (found.operand, found.layers) == ({}, frozenset())
    assert "fc" in found.pooled


@pytest.mark.parametrize("other", ["sigmoid", "constant"])
def test_a_product_without_a_pool_is_no_gate(other):
    """SiLU, and layer scale."""
    graph = GraphBuilder(channels=4)
    x = graph.conv("conv", "input", 4)
    right = (
        graph.node("Sigmoid", "sigmoid", x)
        if other == "sigmoid"
        else graph.constant("gamma", np.ones((4, 1, 1), np.float32))
    )
    assert gates(graph, graph.node("Mul", "scale", x, right)).operand == {}


def test_a_pool_over_part_of_the_image_is_no_gate():
    graph = GraphBuilder(channels=4)
    axes = graph.constant("axes", np.array([3], np.int64))
    rows = graph.node("ReduceMean", "rows", "input", axes)
    assert gates(graph, graph.node("Mul", "scale", "input", rows)).operand == {}
