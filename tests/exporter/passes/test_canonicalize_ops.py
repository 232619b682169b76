import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.placement.channel_gates import find_gates
from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.canonicalize_ops import canonical_ops

SHAPE = ("N", 4, 3, 5)


def model_of(nodes, *, initializers=None, shape=SHAPE, outputs=("y",), opset=18):
    """Return a checked float32 model x -> outputs; the outputs' shapes are inferred."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in (initializers or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def rewritten(model, expected_ops, *, num_changes):
    """Run the pass; check operators, count, checker, unchanged input, equal answers in two evaluators."""
    before = model.SerializeToString()
    result = canonical_ops(model)
    assert model.SerializeToString() == before
    assert [node.op_type for node in result.model.graph.node] == expected_ops
    assert result.num_changes == num_changes
    onnx.checker.check_model(result.model, full_check=True)
    assert result.model.graph.output == model.graph.output
    assert result.model.graph.input == model.graph.input
    shape = [2 if isinstance(size, str) else size for size in _shape(model)]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for evaluate in (_reference, _ort):
        for got, expected in zip(evaluate(result.model, x), evaluate(model, x), strict=True):
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    return result.model


def _shape(model):
    return [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def _reference(model, x):
    return ReferenceEvaluator(model).run(None, {"x": x})


def _ort(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def reduce_mean(axes, *, opset=18, **attributes):
    """ReduceMean with its axes where that opset has them."""
    if opset >= 18:
        nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], **attributes)]
        return model_of(nodes, initializers={"axes": np.array(axes, np.int64)}, opset=opset)
    return model_of([helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, **attributes)], opset=opset)


# ReduceMean


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2], [-2, 3]])
@pytest.mark.parametrize("keepdims", [{}, {"keepdims": 1}])
def test_mean_over_height_and_width_is_global_average_pool(axes, keepdims, opset):
    model = rewritten(reduce_mean(axes, opset=opset, **keepdims), ["GlobalAveragePool"], num_changes=1)
    assert list(model.graph.node[0].input) == ["x"]
    assert not model.graph.node[0].attribute
    assert not model.graph.initializer


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("axes", [[1, 2], [3], [1, 2, 3], [0, 2, 3], [-3, -2]])
def test_mean_over_other_axes_stays(axes, opset):
    model = reduce_mean(axes, opset=opset, keepdims=1)
    assert rewritten(model, ["ReduceMean"], num_changes=0).graph == canonical_ops(model).model.graph


@pytest.mark.parametrize("opset", [17, 18])
def test_mean_that_drops_its_axes_stays(opset):
    rewritten(reduce_mean([2, 3], opset=opset, keepdims=0), ["ReduceMean"], num_changes=0)


def test_mean_over_everything_stays():
    rewritten(model_of([helper.make_node("ReduceMean", ["x"], ["y"])]), ["ReduceMean"], num_changes=0)


@pytest.mark.parametrize(("shape", "axes"), [(("N", 4, 5), [-1, -2]), (("N", 4, 3, 5, 2), [2, 3])])
def test_mean_of_what_is_no_picture_stays(shape, axes):
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"])]
    rewritten(model_of(nodes, initializers={"axes": np.array(axes)}, shape=shape), ["ReduceMean"], num_changes=0)


def test_mean_over_computed_axes_stays():
    axes = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([2, 3])))
    model = model_of([axes, helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)])
    rewritten(model, ["Constant", "ReduceMean"], num_changes=0)


def test_axes_that_two_means_share_stay_for_the_other():
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["pooled"], keepdims=1),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
    ]
    model = model_of(nodes, initializers={"axes": np.array([2, 3])}, outputs=("pooled", "mean"))
    result = rewritten(model, ["GlobalAveragePool", "ReduceMean"], num_changes=1)
    assert [tensor.name for tensor in result.graph.initializer] == ["axes"]


def test_default_that_older_opsets_do_not_know_is_left_out():
    nodes = [helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0, noop_with_empty_axes=0)]
    result = rewritten(model_of(nodes, initializers={"axes": np.array([2, 3])}), ["ReduceMax"], num_changes=1)
    assert [attribute.name for attribute in result.graph.node[0].attribute] == ["keepdims"]


def test_no_op_reduction_stays_one():
    rewritten(
        model_of([helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1)]), ["ReduceMean"], num_changes=0
    )


# AveragePool


def average_pool(kernel, *, shape=SHAPE, **attributes):
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=kernel, **attributes)]
    return model_of(nodes, shape=shape, opset=20)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [3, 5]}, {"ceil_mode": 1}, {"auto_pad": "VALID"}, {"count_include_pad": 1, "pads": [0, 0, 0, 0]}],
)
def test_one_window_over_the_picture_is_global_average_pool(attributes):
    (node,) = rewritten(average_pool([3, 5], **attributes), ["GlobalAveragePool"], num_changes=1).graph.node
    assert not node.attribute


@pytest.mark.parametrize(
    ("kernel", "shape", "attributes"),
    [
        ([3, 4], SHAPE, {}),
        ([3, 5], SHAPE, {"pads": [1, 0, 0, 0]}),
        ([3, 5], SHAPE, {"auto_pad": "SAME_UPPER"}),
        ([2, 3], SHAPE, {"dilations": [2, 2]}),
        ([3], ("N", 4, 3), {}),
    ],
)
def test_other_windows_stay(kernel, shape, attributes):
    rewritten(average_pool(kernel, shape=shape, **attributes), ["AveragePool"], num_changes=0)


def test_a_window_over_a_picture_of_unknown_size_stays():
    result = canonical_ops(average_pool([3, 5], shape=("N", 4, "height", 5)))
    assert [node.op_type for node in result.model.graph.node] == ["AveragePool"]


def test_gates_of_tensorflow_are_seen():
    """Squeeze-and-excitation as tf2onnx writes it: one window, and every tensor reshaped to the shape that it has."""
    graph = GraphBuilder(channels=4)
    x = graph.node("AveragePool", "pool", "input", kernel_shape=[8, 8], strides=[8, 8])
    x = graph.node("Reshape", "first", x, graph.constant("four", np.array([-1, 4, 1, 1])))
    x = graph.node("Relu", "relu", graph.conv("reduce", x, 2, kernel=1))
    x = graph.node("Reshape", "second", x, graph.constant("two", np.array([-1, 2, 1, 1])))
    gate = graph.node("Sigmoid", "gate", graph.conv("expand", x, 4, kernel=1))
    model = graph.model(graph.conv("next", graph.node("Mul", "scale", "input", gate), 2), opset=20)
    assert not find_gates(infer_shapes(model)).operand
    result = canonical_ops(model).model
    found = find_gates(infer_shapes(result))
    assert (found.operand, found.layers) == ({"scale": 1}, {"reduce", "expand"})
    x = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float32)
    got, expected = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"input": x})[0] for each in (result, model)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


# Reshape


def reshape(target, *, shape=SHAPE, opset=18, **attributes):
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"], **attributes)]
    return model_of(nodes, initializers={"target": np.array(target, np.int64)}, shape=shape, opset=opset)


@pytest.mark.parametrize(
    ("target", "attributes"), [([-1, 60], {}), ([0, 60], {}), ([0, 60], {"allowzero": 0}), ([-1, 60], {"allowzero": 1})]
)
def test_reshape_to_batch_and_features_is_flatten(target, attributes):
    (node,) = rewritten(reshape(target, **attributes), ["Flatten"], num_changes=1).graph.node
    assert list(node.input) == ["x"]
    assert helper.get_attribute_value(node.attribute[0]) == 1


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ([-1, 30], SHAPE),  # two rows per image
        ([-1, 15], SHAPE),  # a row per channel
        ([0, 4, 15], SHAPE),
        ([0, -1], SHAPE),  # equal, but what -1 stands for is not written
        ([60, -1], SHAPE),
        ([2, 60], (2, 4, 3, 5)),
    ],
)
def test_other_reshapes_stay(target, shape):
    rewritten(reshape(target, shape=shape), ["Reshape"], num_changes=0)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ([-1, 4, 3, 5], SHAPE),
        ([0, 4, 3, 5], SHAPE),
        ([-1, 0, 3, 0], SHAPE),
        ([2, 4, 3, 5], (2, 4, 3, 5)),
        ([-1, 12], ("N", 12)),
    ],
)
def test_reshape_to_its_own_shape_goes(target, shape):
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    rewritten(model_of(nodes, initializers={"target": np.array(target)}, shape=shape), ["Relu"], num_changes=2)


@pytest.mark.parametrize("target", [[-1, 4, 5, 3], [-1, 3, 4, 5], [-1, 4, 3, 5, 1], [4, -1, 3, 5], [0, 4, -1, 5]])
def test_reshape_to_another_shape_of_as_many_axes_stays(target):
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    rewritten(model_of(nodes, initializers={"target": np.array(target)}), ["Reshape", "Relu"], num_changes=0)


def test_reshape_to_a_literal_zero_stays():
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"], allowzero=1)]
    result = canonical_ops(model_of(nodes, initializers={"target": np.array([0, 60])}, shape=(0, 4, 3, 5)))
    assert [node.op_type for node in result.model.graph.node] == ["Reshape"]


def test_reshape_with_unknown_sizes_stays():
    result = canonical_ops(reshape([0, 60], shape=("N", 4, "height", "width")))
    assert [node.op_type for node in result.model.graph.node] == ["Reshape"]


def test_reshape_to_a_computed_shape_stays():
    nodes = [helper.make_node("Shape", ["x"], ["same"]), helper.make_node("Reshape", ["x", "same"], ["y"])]
    rewritten(model_of(nodes), ["Shape", "Reshape"], num_changes=0)


# Identity


def identity(source, target):
    return helper.make_node("Identity", [source], [target], name=target)


def test_chain_of_identities_disappears():
    nodes = [identity("x", "a"), identity("a", "b"), helper.make_node("Relu", ["b"], ["y"])]
    model = rewritten(model_of(nodes), ["Relu"], num_changes=2)
    assert list(model.graph.node[0].input) == ["x"]


def test_identity_that_makes_a_graph_output_stays():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), identity("a", "b"), identity("b", "y")]
    model = rewritten(model_of(nodes), ["Relu", "Identity"], num_changes=1)
    assert list(model.graph.node[1].input) == ["a"]


def test_identity_between_two_graph_outputs_stays_and_is_read_on():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        identity("a", "y"),
        identity("y", "b"),
        helper.make_node("Neg", ["b"], ["z"]),
    ]
    model = rewritten(model_of(nodes, outputs=("y", "z")), ["Relu", "Identity", "Neg"], num_changes=1)
    assert list(model.graph.node[2].input) == ["y"]


def test_identity_of_a_weight_and_of_the_input_read_twice():
    nodes = [
        identity("w", "weight"),
        identity("x", "a"),
        helper.make_node("Mul", ["a", "weight"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = rewritten(model_of(nodes, initializers={"w": np.float32([2.0])}), ["Mul", "Add"], num_changes=2)
    assert [list(node.input) for node in model.graph.node] == [["x", "w"], ["x", "b"]]


def test_rewrites_work_through_identities_and_together():
    nodes = [
        identity("x", "a"),
        helper.make_node("ReduceMean", ["a", "axes"], ["pooled"], keepdims=1),
        identity("pooled", "b"),
        helper.make_node("Reshape", ["b", "target"], ["y"]),
    ]
    model = model_of(nodes, initializers={"axes": np.array([-1, -2]), "target": np.array([-1, 4])})
    assert not rewritten(model, ["GlobalAveragePool", "Flatten"], num_changes=4).graph.initializer


def test_second_run_changes_nothing():
    once = canonical_ops(reduce_mean([2, 3], keepdims=1)).model
    twice = canonical_ops(once)
    assert twice.num_changes == 0
    assert twice.model == once


# What exporters leave behind


def assert_rewritten(graph, output, kinds):
    model = graph.model(output, opset=20)
    result = canonical_ops(model)
    assert [node.op_type for node in result.model.graph.node] == kinds
    x = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    got, expected = (ReferenceEvaluator(each).run(None, {"input": x})[0] for each in (result.model, model))
    assert np.array_equal(got, expected)


def test_an_expand_that_broadcasting_does_anyway_goes():
    """ECA: a gate [N, C, 1, 1] expanded to a size that holds the batch."""
    graph = GraphBuilder()
    gate = graph.node("GlobalAveragePool", "pool", "input")
    batch = graph.node("Shape", "batch", "input", start=0, end=1)
    rest = graph.constant("rest", np.array([2, 8, 8], np.int64))
    wide = graph.node("Expand", "wide", gate, graph.node("Concat", "size", batch, rest, axis=0))
    assert_rewritten(graph, graph.node("Mul", "out", "input", wide), ["GlobalAveragePool", "Mul"])


def test_an_expand_that_something_else_reads_stays():
    graph = GraphBuilder()
    gate = graph.node("GlobalAveragePool", "pool", "input")
    batch = graph.node("Shape", "batch", "input", start=0, end=1)
    rest = graph.constant("rest", np.array([2, 8, 8], np.int64))
    wide = graph.node("Expand", "wide", gate, graph.node("Concat", "size", batch, rest, axis=0))
    kinds = ["GlobalAveragePool", "Shape", "Concat", "Expand", "Abs"]
    assert_rewritten(graph, graph.node("Abs", "out", wide), kinds)


def test_an_expand_that_stretches_the_result_stays():
    graph = GraphBuilder()
    pool = graph.node("GlobalAveragePool", "pool", "input")
    other = graph.node("GlobalMaxPool", "other", "input")
    size = graph.constant("size", np.array([1, 2, 8, 8], np.int64))
    wide = graph.node("Expand", "wide", pool, size)
    kinds = ["GlobalAveragePool", "GlobalMaxPool", "Expand", "Mul"]
    assert_rewritten(graph, graph.node("Mul", "out", other, wide), kinds)


def test_dropout_identity_and_lone_concat_go():
    graph = GraphBuilder()
    x = graph.node("Identity", "identity", graph.node("Dropout", "dropout", graph.node("Abs", "abs", "input")))
    assert_rewritten(graph, graph.node("Relu", "out", graph.node("Concat", "concat", x, axis=1)), ["Abs", "Relu"])


def test_castlike_of_a_known_type_becomes_a_cast():
    graph = GraphBuilder()
    two = graph.constant("two", np.array(2, np.int64))
    cast = graph.node("CastLike", "cast", two, "input")
    assert_rewritten(graph, graph.node("Mul", "out", "input", cast), ["Cast", "Mul"])


def test_a_flatten_to_a_computed_size():
    graph = GraphBuilder()
    batch = graph.node("Shape", "batch", "input", start=0, end=1)
    rest = graph.constant("rest", np.array([128], np.int64))
    size = graph.node("Concat", "size", batch, rest, axis=0)
    assert_rewritten(graph, graph.node("Reshape", "out", "input", size), ["Flatten"])


def test_nodes_that_nobody_reads_go():
    graph = GraphBuilder()
    graph.node("Squeeze", "squeeze", graph.node("Shape", "shape", "input", start=0, end=1))
    assert_rewritten(graph, graph.node("Relu", "out", "input"), ["Relu"])


RELU6 = {"six": np.float32(6), "nought": np.float32(0)}


def test_limits_as_tensorflow_writes_them_become_one_clip():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Min", ["a", "six"], ["b"]),
        helper.make_node("Max", ["nought", "b"], ["y"]),
    ]
    model = rewritten(model_of(nodes, initializers=RELU6 | {"six": np.float32(0.5)}), ["Clip"], num_changes=2)
    limits = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert [float(limits[name]) for name in model.graph.node[0].input[1:]] == [0, 0.5]


def test_limits_are_joined_in_their_order():
    """Max(Min(x, 0.3), 0.5) is 0.5 everywhere, and what begins elsewhere than at 0 stays."""
    constants = {"low": np.float32(0.5), "high": np.float32(0.3), "nought": np.float32(0)}
    nodes = [
        helper.make_node("Max", ["x", "nought"], ["a"]),
        helper.make_node("Min", ["a", "high"], ["b"]),
        helper.make_node("Max", ["b", "low"], ["y"]),
    ]
    rewritten(model_of(nodes, initializers=constants), ["Max", "Min", "Max"], num_changes=0)
    rewritten(
        model_of([helper.make_node("Max", ["x", "nought"], ["y"])], initializers=constants), ["Relu"], num_changes=1
    )


def test_limits_in_between_that_others_read_stay():
    nodes = [
        helper.make_node("Max", ["x", "nought"], ["a"]),
        helper.make_node("Min", ["a", "six"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    rewritten(model_of(nodes, initializers=RELU6 | {"six": np.float32(0.5)}), ["Relu", "Min", "Add"], num_changes=1)


@pytest.mark.parametrize("limit", [[6.0, 0.1, 6.0, 0.2, 6.0], [[[[[6.0]]]]]])
def test_limits_that_broadcast_stay(limit):
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Min", ["a", "limit"], ["y"])]
    rewritten(model_of(nodes, initializers={"limit": np.float32(limit)}), ["Relu", "Min"], num_changes=0)
