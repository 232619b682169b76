"""fold_affine: every legal fold keeps the answers, every illegal one says why and keeps one affine node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.errors import WeightsError
from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.fold_affine import fold_affine


def batchnorm(graph: GraphBuilder, name: str, data: str, *, var=None, **attributes) -> str:
    count = graph.channels[data]
    draw = graph.random
    constants = {
        "scale": draw.uniform(-1.5, 1.5, count),
        "b": draw.normal(size=count),
        "mean": draw.normal(size=count),
        "var": draw.uniform(0.1, 4, count) if var is None else var,
    }
    names = [graph.constant(f"{name}.{key}", values.astype(np.float32)) for key, values in constants.items()]
    return graph.node("BatchNormalization", name, data, *names, **attributes)


def run(model, seed=1):
    x = np.random.default_rng(seed).normal(size=(3, *[d.dim_value for d in _dims(model)[1:]])).astype(np.float32)
    return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})


def _dims(model):
    return model.graph.input[0].type.tensor_type.shape.dim


def assert_same(model, *, folded, other=0, ops):
    """Fold; outputs, their names and the layers' names stay; returns the report."""
    model = infer_shapes(model)
    before = model.SerializeToString(deterministic=True)
    result, report = fold_affine(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [layer for _, layer in report.folded] == folded
    assert report.num_other == other
    assert [node.op_type for node in result.graph.node] == ops
    onnx.checker.check_model(infer_shapes(result), full_check=True)
    for got, expected in zip(run(result), run(model), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    return report


def matmul_graph(*, bias: bool, tail: str = "", constant=None, transpose=False):
    """x [batch, 5, 3] -> MatMul [3, 4] -> bias -> Transpose -> tail with a constant."""
    draw = np.random.default_rng(0)
    initializers = {"w": draw.normal(size=(3, 4)), "b": draw.normal(size=4)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["mm"], name="mm")]
    if bias:
        nodes.append(helper.make_node("Add", ["b", "mm"], ["biased"], name="biased"))
    if transpose:
        nodes.append(helper.make_node("Transpose", [nodes[-1].output[0]], ["t"], name="t", perm=[0, 2, 1]))
    if tail:
        initializers["c"] = np.asarray(constant)
        nodes.append(helper.make_node(tail, [nodes[-1].output[0], "c"], ["tail"], name="tail"))
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_by_hand():
    """Conv w = 2, b = 1; s = 10 / sqrt(3 + 1) = 5, t = 7 - 5 * 1 = 2: W' = 10, b' = 5 + 2."""
    graph = GraphBuilder(channels=1)
    graph.constant("w", np.full((1, 1, 1, 1), 2, np.float32))
    graph.constant("bias", np.ones(1, np.float32))
    graph.node("Conv", "conv", "input", "w", "bias")
    for name, value in (("s", 10), ("t", 7), ("m", 1), ("v", 3)):
        graph.constant(name, np.array([value], np.float32))
    model = graph.model(graph.node("BatchNormalization", "bn", "conv", "s", "t", "m", "v", epsilon=1.0))
    result, _ = fold_affine(infer_shapes(model))
    values = {tensor.name: numpy_helper.to_array(tensor).ravel().tolist() for tensor in result.graph.initializer}
    assert values == {"w": [10.0], "bias": [7.0]}
    assert result.graph.output[0].name == "bn", "the output keeps its name"


@pytest.mark.parametrize("kernel", [1, 3])
def test_behind_a_convolution(kernel):
    graph = GraphBuilder(channels=3)
    conv = graph.conv("conv", "input", 4, kernel=kernel)
    assert_same(
        graph.model(graph.node("Relu", "out", batchnorm(graph, "bn", conv))), folded=["conv"], ops=["Conv", "Relu"]
    )


def test_behind_a_convolution_without_bias_and_with_groups():
    graph = GraphBuilder(channels=4)
    graph.constant("w", graph.random.normal(size=(8, 2, 3, 3)).astype(np.float32))
    graph.node("Conv", "conv", "input", "w", group=2)
    graph.channels["conv"] = 8
    assert_same(graph.model(batchnorm(graph, "bn", "conv")), folded=["conv"], ops=["Conv"])


@pytest.mark.parametrize("transposed", [0, 1])
def test_behind_a_gemm(transposed):
    graph = GraphBuilder(channels=3)
    gemm = graph.gemm("fc", "input", 5, transB=transposed)
    graph.channels[gemm] = 5
    result = assert_same(
        graph.model(batchnorm(graph, "bn", gemm)), folded=["fc"], ops=["GlobalAveragePool", "Flatten", "Gemm"]
    )
    assert result.kept == ()


def test_a_chain_of_maps():
    """Frozen BatchNorm as Mul and Add, then a scalar: all of it goes."""
    graph = GraphBuilder(channels=2)
    x = graph.conv("conv", "input", 3)
    for op, shape in (("Mul", (3, 1, 1)), ("Add", (1, 3, 1, 1)), ("Div", ()), ("Sub", (1,))):
        constant = graph.constant(f"c.{op}", graph.random.uniform(0.5, 2, shape).astype(np.float32))
        x = graph.node(op, op.lower(), *((constant, x) if op in ("Mul", "Add") else (x, constant)))
        graph.channels[x] = 3
    assert_same(graph.model(x), folded=[], other=4, ops=["Conv"])


@pytest.mark.parametrize(
    ("op", "constant"), [("Mul", np.arange(4) + 1.0), ("Add", np.ones((1, 1, 4))), ("Mul", np.array(3.0))]
)
def test_behind_a_linear_layer_on_three_axes(op, constant):
    assert_same(matmul_graph(bias=True, tail=op, constant=constant), folded=[], other=1, ops=["MatMul", "Add"])


def test_layer_scale_behind_a_transpose():
    """[batch, 5, 4] -> [batch, 4, 5]: the channels are axis 1 there."""
    model = matmul_graph(bias=True, tail="Mul", constant=np.arange(4).reshape(4, 1) + 1.0, transpose=True)
    assert_same(model, folded=[], other=1, ops=["MatMul", "Add", "Transpose"])


def test_a_constant_along_another_axis_stays():
    model = matmul_graph(bias=True, tail="Mul", constant=np.arange(5).reshape(5, 1) + 1.0)
    assert_same(model, folded=[], other=0, ops=["MatMul", "Add", "Mul"])


def test_a_linear_layer_keeps_its_own_bias():
    assert_same(matmul_graph(bias=True), folded=[], other=0, ops=["MatMul", "Add"])


def test_before_layers_that_pad_nothing():
    """BatchNorm -> 1x1 Conv twice (one strided, one grouped): into both."""
    graph = GraphBuilder(channels=4)
    bn = batchnorm(graph, "bn", graph.node("Relu", "relu", "input"))
    left = graph.conv("left", bn, 3, kernel=1, stride=2)
    graph.constant("w", graph.random.normal(size=(6, 2, 1, 1)).astype(np.float32))
    graph.node("Conv", "right", bn, "w", group=2)
    assert_same(graph.model(left, "right"), folded=["left, right"], ops=["Relu", "Conv", "Conv"])


def test_before_a_gemm():
    graph = GraphBuilder(channels=3)
    flat = graph.node("Flatten", "flat", graph.node("GlobalAveragePool", "pool", "input"), axis=1)
    bn = batchnorm(graph, "bn", flat)
    for name, shape, transposed in (("fc1", (3, 2), 0), ("fc2", (5, 3), 1)):
        weight = graph.constant(f"{name}.w", graph.random.normal(size=shape).astype(np.float32))
        graph.node("Gemm", name, bn, weight, transB=transposed)
    assert_same(graph.model("fc1", "fc2"), folded=["fc1, fc2"], ops=["GlobalAveragePool", "Flatten", "Gemm", "Gemm"])


def kept_reason(graph: GraphBuilder, *outputs: str) -> str:
    result, report = fold_affine(infer_shapes(graph.model(*outputs)))
    assert report.folded == ()
    ((name, reason),) = report.kept
    assert name == "bn"
    for got, expected in zip(run(result), run(graph.model(*outputs)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    return reason


def test_between_add_and_relu_it_stays_as_one_node_with_its_map():
    graph = GraphBuilder()
    bn = batchnorm(graph, "bn", graph.node("Add", "add", "input", "input"), var=np.full(2, 1e-9))
    model = infer_shapes(graph.model(graph.node("Relu", "out", bn)))
    result, report = fold_affine(model)
    (kept,) = report.kept
    assert kept[0] == "bn"
    assert "comes from Add 'add'" in kept[1]
    node = next(node for node in result.graph.node if node.op_type == "BatchNormalization")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    assert values[node.input[3]].tolist() == [0, 0]
    assert values[node.input[4]].tolist() == [1, 1]
    assert helper.get_attribute_value(next(a for a in node.attribute if a.name == "epsilon")) == 0.0
    np.testing.assert_allclose(run(result)[0], run(model)[0], rtol=1e-5, atol=1e-4)


def test_a_padded_convolution_behind_it_keeps_it():
    graph = GraphBuilder()
    bn = batchnorm(graph, "bn", graph.node("Relu", "relu", "input"))
    assert "pads with zeros" in kept_reason(graph, graph.conv("conv", bn, 2, kernel=3))


def test_a_convolution_that_others_read_keeps_it():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    bn = batchnorm(graph, "bn", conv)
    assert "is also read elsewhere" in kept_reason(graph, graph.node("Add", "out", bn, conv))


def test_a_convolution_that_is_an_output_keeps_it():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    assert "is also read elsewhere" in kept_reason(graph, batchnorm(graph, "bn", conv), conv)


def test_a_shared_weight_gets_a_copy():
    """Two layers of one weight, a BatchNorm behind the first: the second must not change."""
    graph = GraphBuilder()
    first = graph.conv("first", "input", 2)
    second = graph.conv("second", batchnorm(graph, "bn", first), 2, weight="first.weight")
    assert_same(graph.model(second), folded=["first"], ops=["Conv", "Conv"])


def test_a_weight_that_callers_may_replace_keeps_it():
    graph = GraphBuilder()
    model = graph.model(batchnorm(graph, "bn", graph.conv("conv", "input", 2)))
    model.graph.input.append(helper.make_tensor_value_info("conv.weight", TensorProto.FLOAT, [2, 2, 3, 3]))
    ((_, reason),) = fold_affine(infer_shapes(model))[1].kept
    assert reason == "the weight of 'conv' is not a float constant"


def test_training_mode_stays_untouched():
    graph = GraphBuilder()
    bn = batchnorm(graph, "bn", graph.conv("conv", "input", 2))
    model = graph.model(bn)
    node = model.graph.node[-1]
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["mean", "var"])
    ((_, reason),) = fold_affine(infer_shapes(model))[1].kept
    assert "training mode" in reason


def test_a_weight_that_overflows_is_told_by_name():
    graph = GraphBuilder()
    conv = graph.conv("conv", "input", 2)
    bn = batchnorm(graph, "bn", conv, var=np.full(2, 1e-38), epsilon=0.0)
    model = graph.model(bn)
    for tensor in model.graph.initializer:
        if tensor.name == "bn.scale":
            tensor.CopyFrom(numpy_helper.from_array(np.full(2, 1e30, np.float32), "bn.scale"))
    with pytest.raises(WeightsError, match="folding into 'conv'"):
        fold_affine(infer_shapes(model))
