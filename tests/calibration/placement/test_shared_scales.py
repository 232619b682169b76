"""Concat inputs on one scale, and no tensor stored twice: on hand-built graphs; whole blocks are in tests/e2e."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder

from calibration.errors import PlacementError
from calibration.placement.for_tensorrt import place_qdq
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from runtimes.ort.adapter import OrtRuntime


def readers(placement) -> dict[str, list[tuple[str, int]]]:
    return {name: [(reader.node, reader.index) for reader in found] for name, found in placement.activations.items()}


def branches(graph: GraphBuilder) -> tuple[str, str]:
    left = graph.node("Relu", "left", graph.conv("conv1", "input", 2))
    return left, graph.node("Relu", "right", graph.conv("conv2", "input", 3))


def concat(graph: GraphBuilder) -> str:
    graph.node("Concat", "concat", *branches(graph), axis=1)
    graph.channels["concat"] = 5
    return "concat"


def test_concat_before_a_convolution():
    graph = GraphBuilder()
    placement = place_qdq(graph.model(graph.conv("next", concat(graph), 2)))
    assert readers(placement)["left"] == [("concat", 0)]
    assert readers(placement)["right"] == [("concat", 1)]
    assert placement.shared_scales == (("left", "right", "concat"),)


def test_concat_before_an_activation_needs_no_pair_of_its_own():
    graph = GraphBuilder()
    placement = place_qdq(graph.model(graph.conv("next", graph.node("Relu", "relu", concat(graph)), 2)))
    assert "concat" not in placement.activations
    assert placement.shared_scales == (("left", "right"),)


def test_concat_that_leads_nowhere_stays_in_float():
    graph = GraphBuilder()
    placement = place_qdq(graph.model(graph.node("Sigmoid", "out", concat(graph))))
    assert placement.shared_scales == ()
    assert list(placement.activations) == ["input"]


def test_concat_of_pooled_values_stays_in_float():
    """A head of two kinds of global pool."""
    graph = GraphBuilder()
    pools = [graph.node(f"Global{kind}Pool", kind, "input") for kind in ("Average", "Max")]
    flat = graph.node("Flatten", "flat", graph.node("Concat", "concat", *pools, axis=1))
    weight = graph.constant("w", np.ones((4, 3), np.float32))
    placement = place_qdq(graph.model(graph.node("Gemm", "fc", flat, weight)))
    assert readers(placement) == {"flat": [("fc", 0)]}


def test_concat_with_a_constant_stays_in_float():
    graph = GraphBuilder()
    left, _ = branches(graph)
    zeros = graph.constant("zeros", np.zeros((1, 2, 8, 8), np.float32))
    graph.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.node("Concat", "concat", left, zeros, axis=1)
    graph.channels["concat"] = 4
    placement = place_qdq(graph.model(graph.conv("next", "concat", 2), "right"))
    assert placement.shared_scales == ()


def test_concats_that_share_an_input_share_a_scale():
    graph = GraphBuilder()
    x = concat(graph)
    third = graph.node("Relu", "third", graph.conv("conv3", x, 2))
    graph.node("Concat", "concat2", "left", third, axis=1)
    graph.channels["concat2"] = 4
    placement = place_qdq(graph.model(graph.conv("next", "concat2", 2)))
    (group,) = placement.shared_scales
    assert set(group) == {"left", "right", "concat", "third", "concat2"}


def between(graph: GraphBuilder, *ops: tuple[str, dict]) -> str:
    """`x`, read by a convolution and by a chain of operators that leads to another convolution."""
    x = graph.node("Relu", "x", graph.conv("stem", "input", 2))
    graph.conv("left", x, 2)
    for place, (op, attributes) in enumerate(ops):
        inputs = [graph.constant(f"c{place}", np.array(a, np.int64)) for a in attributes.pop("inputs", ())]
        x = graph.node(op, f"{op.lower()}{place}", x, *inputs, **attributes)
    return graph.conv("right", x, 2)


POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
MOVING = {
    "MaxPool": [("MaxPool", POOL)],
    "Slice": [("Slice", {"inputs": ([0], [4], [2])})],
    "Pad": [("Pad", {"inputs": ([0, 0, 1, 1, 0, 0, 1, 1],)})],
    "Slice and Pad": [("Slice", {"inputs": ([0], [4], [2])}), ("Pad", {"inputs": ([0, 0, 1, 1, 0, 0, 1, 1],)})],
}
COMPUTING = {
    "AveragePool": [("AveragePool", POOL)],
    "Relu": [("LeakyRelu", {})],
    "pool and Relu": [("MaxPool", POOL), ("LeakyRelu", {})],
}


@pytest.mark.parametrize("ops", MOVING.values(), ids=MOVING)
def test_moved_values_keep_their_scale(ops):
    graph = GraphBuilder()
    ops = [(op, dict(attributes)) for op, attributes in ops]
    right = between(graph, *ops)
    placement = place_qdq(graph.model("left", right))
    first, last = graph.nodes[3].name, graph.nodes[-2].name
    assert readers(placement)["x"] == [("left", 0), (first, 0)]
    assert placement.shared_scales == (("x", last),)


@pytest.mark.parametrize("ops", COMPUTING.values(), ids=COMPUTING)
def test_computed_values_get_their_own_scale(ops):
    graph = GraphBuilder()
    ops = [(op, dict(attributes)) for op, attributes in ops]
    right = between(graph, *ops)
    placement = place_qdq(graph.model("left", right))
    assert readers(placement)["x"] == [("left", 0), (graph.nodes[3].name, 0)]
    assert placement.shared_scales == ()


@pytest.mark.parametrize("why", ["read in float too", "output"])
def test_what_is_needed_in_float_is_computed_in_float(why):
    graph = GraphBuilder()
    right = between(graph, ("MaxPool", dict(POOL)))
    extra = "maxpool0" if why == "output" else graph.node("Sigmoid", "sigmoid", "maxpool0")
    placement = place_qdq(graph.model("left", right, extra))
    assert readers(placement)["x"] == [("left", 0)]
    assert placement.shared_scales == ()


def test_a_group_has_the_range_of_all_its_values():
    """Left is ten times right: both get left's scale, and the Concat of dequantized values loses nothing."""
    graph = GraphBuilder()
    model = graph.model(graph.conv("next", concat(graph), 2))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("conv1."):
            values = np.frombuffer(tensor.raw_data, np.float32) * 10
            tensor.raw_data = values.astype(np.float32).tobytes()
    images = np.random.default_rng(0).normal(size=(16, 2, 8, 8)).astype(np.float32)
    table = calibrate(model, [images], open_runtime=OrtRuntime)
    scales = {table.ranges[name].scale for name in ("left", "right", "concat")}
    assert len(scales) == 1
    quantized = insert_qdq(model, table).model
    concat_node = next(node for node in quantized.graph.node if node.op_type == "Concat")
    assert list(concat_node.input) == ["left.dequantized", "right.dequantized"]


def test_a_table_with_two_scales_for_a_group_is_refused():
    import dataclasses

    graph = GraphBuilder()
    model = graph.model(graph.conv("next", concat(graph), 2))
    images = np.random.default_rng(0).normal(size=(16, 2, 8, 8)).astype(np.float32)
    table = calibrate(model, [images], open_runtime=OrtRuntime)
    ranges = dict(table.ranges)
    ranges["right"] = dataclasses.replace(ranges["right"], amax=1.0, scale=1 / 127)
    with pytest.raises(PlacementError, match="different scales; they must share one"):
        insert_qdq(model, dataclasses.replace(table, ranges=ranges))
