"""fold_constants: constants are computed, everything else is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.fold_constants import MAX_GROWTH_BYTES, fold_constants


def answers(model, x):
    return ReferenceEvaluator(model).run(None, {"input": x})


def test_a_standardized_weight_becomes_a_constant():
    """The weight of a StdConv: minus its mean, over its standard deviation."""
    graph = GraphBuilder()
    weight = graph.constant("w", graph.random.normal(size=(3, 2, 3, 3)).astype(np.float32))
    axes = graph.constant("axes", np.array([1, 2, 3], np.int64))
    mean = graph.node("ReduceMean", "mean", weight, axes)
    centered = graph.node("Sub", "centered", weight, mean)
    variance = graph.node("ReduceMean", "variance", graph.node("Mul", "square", centered, centered), axes)
    graph.node("Div", "standard", centered, graph.node("Sqrt", "deviation", variance))
    model = graph.model(graph.node("Conv", "conv", "input", "standard"), opset=20)
    result = fold_constants(model)
    assert [node.op_type for node in result.model.graph.node] == ["Conv"]
    assert [tensor.name for tensor in result.model.graph.initializer] == ["standard"]
    assert result.num_changes == 6
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(answers(result.model, x)[0], answers(model, x)[0], rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(infer_shapes(result.model), full_check=True)


def test_constant_nodes_become_initializers_and_dead_nodes_go():
    graph = GraphBuilder()
    graph.node("Constant", "two", value=numpy_helper.from_array(np.array(2, np.float32)))
    graph.node("Relu", "unread", "input")
    model = graph.model(graph.node("Mul", "out", "input", "two"))
    result = fold_constants(model)
    assert [node.op_type for node in result.model.graph.node] == ["Mul"]
    assert [tensor.name for tensor in result.model.graph.initializer] == ["two"]


def test_what_depends_on_the_image_stays():
    graph = GraphBuilder()
    graph.node("Shape", "shape", "input")
    model = graph.model(graph.node("Reshape", "out", "input", "shape"))
    assert fold_constants(model).num_changes == 0


def test_a_weight_that_callers_may_replace_stays():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    graph.inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2, 1, 1]))
    model = graph.model(graph.node("Conv", "out", "input", graph.node("Abs", "abs", weight)))
    assert fold_constants(model).num_changes == 0


def test_random_numbers_stay():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    model = graph.model(graph.node("Conv", "out", "input", graph.node("RandomNormalLike", "random", weight)))
    assert fold_constants(model).num_changes == 0


def test_an_output_stays_a_node():
    graph = GraphBuilder()
    weight = graph.constant("w", np.ones((2, 2, 1, 1), np.float32))
    model = graph.model(graph.node("Abs", "abs", weight), graph.node("Conv", "out", "input", "abs"))
    assert {"Abs", "Conv"} == {node.op_type for node in fold_constants(model).model.graph.node}


def test_a_constant_that_would_blow_up_the_file_stays_and_is_told():
    graph = GraphBuilder()
    shape = graph.constant("shape", np.array([1, 2, 512, 1024], np.int64))
    one = graph.constant("one", np.ones(1, np.float32))
    pool = graph.node("GlobalAveragePool", "pool", "input")
    model = graph.model(graph.node("Mul", "out", pool, graph.node("Expand", "wide", one, shape)))
    result = fold_constants(model)
    assert result.num_changes == 0
    assert result.skipped[0].startswith("wide: ")
    assert MAX_GROWTH_BYTES < 2 * 512 * 1024 * 4


@pytest.mark.parametrize(
    ("op", "constants"),
    [
        ("ConstantOfShape", {"shape": [1 << 20, 1 << 20]}),
        ("Expand", {"value": [1], "shape": [1 << 40]}),
        ("Tile", {"value": [1], "repeats": [1 << 40]}),
    ],
)
def test_a_dozen_bytes_that_ask_for_terabytes_are_not_computed(op, constants):
    """Each would end in MemoryError, or in the kernel killing the process, if it were tried."""
    graph = GraphBuilder()
    names = [graph.constant(name, np.asarray(values, np.int64)) for name, values in constants.items()]
    cast = graph.node("Cast", "cast", graph.node(op, "big", *names), to=1)
    graph.node("Add", "sum", "input", graph.node("ReduceMax", "largest", cast, keepdims=0))
    result = fold_constants(graph.model("sum"))
    assert "big" in {node.name for node in result.model.graph.node}
    assert any(words.startswith("big: its constant result would have") for words in result.skipped)


@pytest.mark.parametrize(
    ("op", "opset", "options", "stays"),
    [
        ("Softmax", 11, {"axis": 1}, True),
        ("Softmax", 13, {"axis": 1}, False),
        ("LogSoftmax", 12, {"axis": 1}, True),
        ("LRN", 17, {"size": 3, "alpha": 1.0}, True),
        ("LpNormalization", 17, {"axis": 1, "p": 1}, True),
        ("LpNormalization", 17, {"axis": 1, "p": 2}, False),
        ("MaxPool", 17, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, True),
        ("MaxPool", 17, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, False),
    ],
)
def test_what_the_reference_implementation_computes_otherwise_stays(op, opset, options, stays):
    """ONNX Runtime is asked for both: a folded weight must be the one that it computes from the file as it was."""
    graph = GraphBuilder()
    weight = graph.constant("w", np.random.default_rng(1).normal(size=(1, 2, 8, 8)).astype(np.float32))
    made = graph.node(op, "made", weight, **options)
    shrunk = graph.node("Slice", "out", "input", *(graph.constant(n, np.array([v])) for n, v in (("a", 0), ("b", 1))))
    total = graph.node("ReduceMean", "mean", made, axes=[2, 3])
    model = graph.model(graph.node("Add", "sum", shrunk, total), opset=opset)
    folded = fold_constants(model).model
    assert (op in [node.op_type for node in folded.graph.node]) == stays
    x = np.zeros((1, 2, 8, 8), np.float32)
    before, after = (
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"input": x}
        )[0]
        for one in (model, folded)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
