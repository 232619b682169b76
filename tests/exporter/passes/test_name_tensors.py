import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.passes.name_tensors import name_after_modules

RELU = "torch.nn.modules.activation.ReLU"
CONV = "torch.nn.modules.conv.Conv2d"
SEQUENTIAL = "torch.nn.modules.container.Sequential"


def node(op_type, inputs, outputs, path=None, kind="user.Block", **attributes):
    """A node as torch.onnx.export leaves it: `path` is the innermost module, called from its parents."""
    made = helper.make_node(
        op_type, inputs, outputs, name=f"node_{outputs[0]}", doc_string="made in /home/me", **attributes
    )
    if path is not None:
        scopes = ["", *filter(None, [path]), made.name]
        classes = ["user.Net", *([kind] if path else []), "aten.op"]
        for key, value in (("name_scopes", scopes), ("class_hierarchy", classes)):
            made.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=repr(value))
        made.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/me/net.py", line 3')
    return made


def model_of(nodes, *, initializers=None, outputs=("logits",)):
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(values, np.float32), name)
            for name, values in (initializers or {}).items()
        ],
        doc_string="graph made in /home/me",
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10, doc_string="made in /home/me"
    )
    model.metadata_props.add(key="where", value="/home/me")
    model.graph.metadata_props.add(key="where", value="/home/me")
    for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        item.doc_string = "/home/me"
        item.metadata_props.add(key="where", value="/home/me")
    return model


def names_of(model):
    """Run the pass and return the nodes' names; check what holds for every model."""
    before = model.SerializeToString()
    result = name_after_modules(model)
    assert model.SerializeToString() == before
    graph = result.model.graph
    assert result.num_changes == len(graph.node)
    names = [made.name for made in graph.node]
    assert len(set(names)) == len(names)
    tensors = [output for made in graph.node for output in made.output if output]
    tensors += [info.name for info in graph.input] + [tensor.name for tensor in graph.initializer]
    assert len(set(tensors)) == len(tensors)
    ends = {info.name for info in graph.output}
    for made in graph.node:
        assert made.output[0] in ends or made.output[0] == made.name
    onnx.checker.check_model(result.model, full_check=True)
    assert b"/home/me" not in result.model.SerializeToString()
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"input": x})
    for got, want in zip(ReferenceEvaluator(result.model).run(None, {"input": x}), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    return names


def test_leaf_container_and_root():
    nodes = [
        node("Relu", ["input"], ["a"], "layer1.0.relu", RELU),
        node("Add", ["a", "input"], ["b"], "layer1.0"),
        node("Neg", ["b"], ["c"], "layer1", SEQUENTIAL),
        node("Abs", ["c"], ["d"], ""),
        node("Relu", ["d"], ["logits"], "head.act", RELU),
    ]
    assert names_of(model_of(nodes)) == ["layer1.0.relu", "layer1.0.add", "layer1.neg", "abs", "head.act"]


def test_module_called_three_times():
    nodes = [
        node("Relu", ["input"], ["a"], "relu", RELU),
        node("Relu", ["a"], ["b"], "relu", RELU),
        node("Relu", ["b"], ["logits"], "relu", RELU),
    ]
    assert names_of(model_of(nodes)) == ["relu", "relu_1", "relu_2"]


@pytest.mark.parametrize("own_first", [True, False])
def test_module_that_is_called_like_a_second_call(own_first):
    paths = ["relu_1", "relu", "relu"] if own_first else ["relu", "relu", "relu_1"]
    nodes = [
        node("Relu", ["input"], ["a"], paths[0], RELU),
        node("Relu", ["a"], ["b"], paths[1], RELU),
        node("Relu", ["b"], ["logits"], paths[2], RELU),
    ]
    assert names_of(model_of(nodes)) == (["relu_1", "relu", "relu_2"] if own_first else ["relu", "relu_2", "relu_1"])


def test_module_called_like_the_input_the_output_or_a_weight():
    nodes = [
        node("Relu", ["input"], ["a"], "input", RELU),
        node("Mul", ["a", "scale"], ["b"], "scale", RELU),
        node("Relu", ["b"], ["logits"], "logits", RELU),
    ]
    assert names_of(model_of(nodes, initializers={"scale": [2.0]})) == ["input.relu", "scale.mul", "logits.relu"]


def test_module_called_like_the_way_out_of_a_clash():
    nodes = [
        node("Relu", ["input"], ["a"], "input.relu", RELU),
        node("Relu", ["a"], ["b"], "input", RELU),
        node("Mul", ["b", "input.relu_1"], ["logits"], "scale", RELU),
    ]
    assert names_of(model_of(nodes, initializers={"input.relu_1": [2.0]})) == ["input.relu", "input.relu_2", "scale"]


def test_second_outputs_are_named_and_read_under_the_new_name():
    nodes = [
        node("Split", ["input"], ["a", "b"], "split", RELU, axis=1),
        node("Relu", ["b"], ["c"], "split.1", RELU),
        node("Concat", ["a", "c"], ["logits"], "", axis=1),
    ]
    model = model_of(nodes)
    assert names_of(model) == ["split", "split.1", "concat"]
    split, relu, concat = name_after_modules(model).model.graph.node
    assert list(split.output) == ["split", "split.1_1"]
    assert list(relu.input) == ["split.1_1"]
    assert list(concat.input) == ["split", "split.1"]


def test_output_that_is_also_read_keeps_its_name():
    nodes = [node("Relu", ["input"], ["logits"], "a", RELU), node("Neg", ["logits"], ["more"], "b", RELU)]
    model = model_of(nodes, outputs=("logits", "more"))
    assert names_of(model) == ["a", "b"]
    assert list(name_after_modules(model).model.graph.node[1].input) == ["logits"]


@pytest.mark.parametrize("value", ["", "[", "17", "{'a': 1}", "['one']", "__import__('os')"])
def test_metadata_that_cannot_be_read_keeps_the_exporters_name(value):
    nodes = [node("Relu", ["input"], ["a"]), node("Relu", ["a"], ["logits"])]
    for made in nodes:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
        made.metadata_props.add(key="pkg.torch.onnx.class_hierarchy", value=value)
    assert names_of(model_of(nodes)) == ["node_a", "node_logits"]


def test_node_without_metadata_or_name():
    nodes = [helper.make_node("Relu", ["input"], ["a"]), helper.make_node("Relu", ["a"], ["logits"])]
    assert names_of(model_of(nodes)) == ["relu", "relu_1"]
