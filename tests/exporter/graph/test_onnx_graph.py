import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.graph.onnx_graph import (
    array_from_initializer,
    attribute,
    copy_model,
    copy_without_constants,
    index_graph,
    infer_shapes,
    infer_types,
    initializer_from_array,
    remove_unused_initializers,
    replace_nodes,
    tensor_types,
    with_outputs,
)


@pytest.fixture
def model():
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Clip", ["a", "", "top"], ["b"], name="second"),
        helper.make_node("Add", ["a", "b"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.float32([2, 3]), "w"), numpy_helper.from_array(np.float32(1), "top")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def test_index(model):
    index = index_graph(model.graph)
    assert {name: node.name for name, node in index.producer.items()} == {"a": "first", "b": "second", "y": "third"}
    assert [(use.node.name, use.place) for use in index.uses["a"]] == [("second", 0), ("third", 0)]
    assert [(use.node.name, use.place) for use in index.uses["top"]] == [("second", 2)]
    assert "" not in index.uses
    assert "y" not in index.uses
    assert set(index.initializer) == {"w", "top"}
    assert index.position == {"a": 0, "b": 1, "y": 2}
    assert index.outputs == {"y"}


def test_same_tensor_read_twice_by_one_node_is_two_uses():
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "test", [], [])
    assert [use.place for use in index_graph(graph).uses["x"]] == [0, 1]


def test_copy_shares_nothing(model):
    copied = copy_model(model)
    assert copied == model
    copied.graph.node[0].name = "other"
    copied.graph.initializer[0].raw_data = b""
    assert model.graph.node[0].name == "first"
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [2, 3]


@pytest.mark.parametrize(
    "array", [np.float32(2), np.zeros((0, 2), np.int64), np.arange(6).reshape(2, 3).T, np.int8([-1])]
)
def test_constants_there_and_back(array):
    tensor = initializer_from_array("name", np.asarray(array))
    back = array_from_initializer(tensor)
    assert tensor.name == "name"
    assert (back.shape, back.dtype) == (np.asarray(array).shape, np.asarray(array).dtype)
    np.testing.assert_array_equal(back, array)


def test_attribute():
    node = helper.make_node("Conv", ["x"], ["y"], group=2, pads=[1, 2])
    assert attribute(node, "group") == 2
    assert list(attribute(node, "pads")) == [1, 2]
    assert attribute(node, "strides") is None
    assert attribute(node, "strides", 7) == 7


def test_replace_nodes_takes_nodes_of_the_graph_itself(model):
    replace_nodes(model.graph, reversed(model.graph.node))
    assert [node.name for node in model.graph.node] == ["third", "second", "first"]


def test_unused_constants_go_and_outputs_stay(model):
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "unused"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "constant"))
    model.graph.output.append(helper.make_tensor_value_info("constant", TensorProto.FLOAT, [1]))
    remove_unused_initializers(model.graph)
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "top", "constant"]


def test_stale_shapes_are_forgotten(model):
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [99, 99]))
    inferred = infer_shapes(model)
    shapes = {name: kind.tensor_type.shape for name, kind in tensor_types(inferred).items()}
    assert [dim.dim_param or dim.dim_value for dim in shapes["a"].dim] == ["batch", 2]
    assert set(shapes) == {"x", "a", "b", "y"}
    assert len(model.graph.value_info) == 1


def test_inference_without_weights_gives_what_inference_with_them_gives():
    """A Reshape's sizes and a Pad's widths are read; a large weight, and a large table of indices, come back whole."""
    random = np.random.default_rng(7)
    constants = {
        "w": random.normal(size=(64, 3, 3, 3)).astype(np.float32),
        "shape": np.int64([0, -1]),
        "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
        "matrix": random.normal(size=(64 * 100, 5)).astype(np.float16).astype(np.float32),
        "table": np.arange(3000) % 5,
    }
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["conv"]),
        helper.make_node("Reshape", ["conv", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["product"]),
        helper.make_node("Gather", ["product", "table"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    expected = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert infer_shapes(model).SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert [dim.dim_param or dim.dim_value for dim in infer_types(model)["y"].tensor_type.shape.dim] == ["batch", 3000]


def test_contradicting_types_are_refused(model):
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(onnx.shape_inference.InferenceError):
        infer_shapes(model)


def test_inner_tensors_become_outputs_once_and_in_order(model):
    before = model.SerializeToString()
    tapped = with_outputs(model, ["b", "x", "y", "a"])
    assert [info.name for info in tapped.graph.output] == ["y", "b", "a"]
    assert model.SerializeToString() == before
    onnx.checker.check_model(tapped, full_check=True)
    y, b, a = ReferenceEvaluator(tapped).run(None, {"x": np.float32([[1, -1]])})
    assert (a.tolist(), b.tolist(), y.tolist()) == ([[2, -3]], [[1, -3]], [[3, -6]])


def test_unknown_tensor_is_refused(model):
    with pytest.raises(KeyError, match="other"):
        with_outputs(model, ["other"])


def test_a_copy_without_constants_has_all_else(model):
    model.metadata_props.add(key="labels", value="a,b")
    model.producer_name, model.domain, model.model_version, model.doc_string = "p", "d", 3, "text"
    model.graph.doc_string = "graph"
    before = model.SerializeToString(deterministic=True)
    bare = copy_without_constants(model, {"w"})
    assert [tensor.name for tensor in bare.graph.initializer] == ["top"]
    bare.graph.initializer.insert(0, model.graph.initializer[0])
    assert bare.SerializeToString(deterministic=True) == before == model.SerializeToString(deterministic=True)
