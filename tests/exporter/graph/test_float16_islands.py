"""Small constants, and inputs that are float32 whatever the model is: an FP16 file answers on a black frame too."""

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper

from exporter.graph.float16_islands import float32_islands, lost_in_float16
from exporter.graph.onnx_graph import tensor_types
from exporter.passes.float16 import float16_from_float32
from runtimes.ort.adapter import OrtRuntime


def normalize(graph, x, small):
    norm = graph.node("ReduceL2", "norm", x, axes=[1], keepdims=1)
    return graph.node("Div", "out", x, graph.node("Max", "max", norm, small))


def root(graph, x, small):
    squares = graph.node("ReduceSum", "sum", graph.node("Mul", "square", x, x), graph.constant("axes", [1]), keepdims=1)
    return graph.node("Div", "out", x, graph.node("Sqrt", "root", graph.node("Add", "add", squares, small)))


def reciprocal_root(graph, x, small):
    squares = graph.node(
        "ReduceMean", "mean", graph.node("Pow", "square", x, graph.constant("two", np.float32(2))), axes=[1]
    )
    inverse = graph.node("Reciprocal", "inverse", graph.node("Sqrt", "root", graph.node("Add", "add", squares, small)))
    return graph.node("Mul", "out", x, inverse)


def share(graph, x, small):
    total = graph.node("ReduceSum", "sum", graph.node("Abs", "abs", x), graph.constant("axes", [1]), keepdims=1)
    return graph.node("Div", "out", x, graph.node("Add", "add", total, small))


def clipped(graph, x, small):
    total = graph.node("ReduceL1", "sum", x, axes=[1], keepdims=1)
    return graph.node("Div", "out", x, graph.node("Clip", "clip", total, small))


QUOTIENTS = {one.__name__: one for one in (normalize, root, reciprocal_root, share, clipped)}


def network(build, small):
    graph = GraphBuilder(channels=3)
    features = graph.node("GlobalAveragePool", "pool", graph.node("Relu", "relu", graph.conv("conv", "input", 8)))
    graph.initializers.pop("conv.bias")
    graph.nodes[0].input.pop()
    constant = graph.constant("small", np.float32(small))
    flat = graph.node("Flatten", "flat", build(graph, features, constant), axis=1)
    weight = graph.constant("w", graph.random.normal(size=(8, 5)).astype(np.float32))
    bias = graph.constant("b", graph.random.normal(size=5).astype(np.float32))
    return graph.model(graph.node("Gemm", "fc", flat, weight, bias))


def run(model, images):
    with OrtRuntime(model) as runtime:
        return runtime.run({"input": images})["fc"]


@pytest.mark.parametrize("small", [1e-8, 1e-12])
@pytest.mark.parametrize("build", QUOTIENTS.values(), ids=QUOTIENTS)
def test_a_black_frame_gives_the_bias_and_others_what_they_gave(build, small):
    model = network(build, small)
    result = float16_from_float32(model)
    onnx.checker.check_model(result.model, full_check=True)
    images = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    for given in (images, 1e-3 * images, np.zeros_like(images)):
        expected, got = run(model, given), run(result.model, given)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-2 * np.abs(expected).max())
    assert "'small'" in result.skipped[0]
    assert all(
        name in result.skipped[0] for name in ("stays in float32", "Div" if build is not reciprocal_root else "Mul")
    )


@pytest.mark.parametrize("small", [1e-3, 1e-5])
def test_what_fp16_holds_needs_no_island(small):
    result = float16_from_float32(network(share, small))
    assert result.skipped == ()
    assert [node.op_type for node in result.model.graph.node].count("Cast") == 2


def test_a_constant_that_both_sides_read_is_there_twice():
    graph = GraphBuilder(channels=3)
    small = graph.constant("small", np.float32(1e-9))
    tiny = graph.node("Mul", "tiny", "input", small)
    big = graph.node("Div", "big", tiny, small)
    model = graph.model(graph.node("Relu", "relu", big), graph.node("Expand", "wide", small, graph.constant("s", [2])))
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    result = float16_from_float32(model).model
    with OrtRuntime(result) as runtime:
        got = runtime.run({"input": images})
    np.testing.assert_allclose(got["relu"], np.maximum(images, 0), atol=1e-2)


def test_weights_that_vanish_are_counted():
    graph = GraphBuilder(channels=3)
    model = graph.model(graph.conv("conv", "input", 4))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, :2] = 1e-9, -1e-12
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    result = float16_from_float32(model)
    assert result.skipped == ("2 numbers of weights are below FP16's range and became 0",)
    assert float32_islands(model.graph) == (set(), {})


@pytest.mark.parametrize("opset", [13, 18, 19])
@pytest.mark.parametrize("roi", ["", "roi"])
def test_resize_keeps_its_scales(opset, roi):
    graph = GraphBuilder(channels=3)
    graph.constant("roi", np.zeros(0, np.float32))
    graph.constant("scales", np.float32([1, 1, 0.5, 0.5]))
    if not roi:
        graph.initializers.pop("roi")
    shrunk = graph.node("Resize", "resize", "input", roi, "scales", mode="linear")
    graph.channels[shrunk] = 3
    model = graph.model(graph.gemm("fc", graph.conv("conv", shrunk, 4), 5), opset=opset)
    result = float16_from_float32(model).model
    kinds = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert all(kinds[name] == TensorProto.FLOAT for name in ("scales", roi) if name)
    assert kinds["conv.weight"] == TensorProto.FLOAT16
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected, got = run(model, images), run(result, images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-3 * np.abs(expected).max())


def test_the_type_of_a_cast_is_found_by_its_name():
    """Opset 19 has `saturate`, and some writers put it first."""
    graph = GraphBuilder(channels=3)
    whole = graph.node("Cast", "whole", "input", to=TensorProto.INT32)
    graph.nodes.append(helper.make_node("Cast", [whole], ["back"], name="back", saturate=1, to=TensorProto.FLOAT))
    model = graph.model(graph.node("Relu", "relu", "back"), opset=19)
    node = model.graph.node[1]
    order = sorted(node.attribute, key=lambda entry: entry.name != "saturate")
    del node.attribute[:]
    node.attribute.extend(order)
    result = float16_from_float32(model).model
    assert tensor_types(result)["back"].tensor_type.elem_type == TensorProto.FLOAT16


def test_which_numbers_are_lost():
    values = np.float32([0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1, 70000])
    assert lost_in_float16(values).tolist() == [False, True, True, True, False, False, False, False, False]
