"""Files that onnx's checker refuses are refused in words: which tensor or node, and what to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from lint_targets import ONNX_RUNTIME, rule_ids, the_finding
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration.lint import lint_file, lint_model
from exporter.errors import OnnxFileError
from exporter.graph.invalid_model import why_not_walkable
from exporter.graph.onnx_file import read_onnx


def classifier() -> ModelProto:
    graph = GraphBuilder(channels=3)
    graph.node("Relu", "relu", graph.conv("conv", "input", 4))
    graph.channels["relu"] = 4
    return graph.model(graph.gemm("fc", "relu", 5))


def no_input_shape(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")


def no_input_type(model):
    model.graph.input[0].ClearField("type")


def newer_ir(model):
    model.ir_version = 99


def older_ir(model):
    model.ir_version = 2


def no_opset(model):
    model.ClearField("opset_import")


def only_another_opset(model):
    model.opset_import[0].domain = "com.microsoft"


def two_opsets(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))


def made_twice(model):
    model.graph.node[1].output[0] = "conv"


def constant_made_again(model):
    model.graph.node[1].output[0] = "conv.weight"


def input_made_again(model):
    model.graph.node[1].output[0] = "input"


def out_of_order(model):
    model.graph.node.sort(key=lambda node: node.name != "relu")


def reads_nothing(model):
    model.graph.node[0].input[0] = "gone"


def gives_nothing(model):
    model.graph.output[0].name = "gone"


def unknown_operator(model):
    model.graph.node[1].op_type = "Rleu"


def operator_of_a_later_opset(model):
    model.graph.node[1].op_type = "Gelu"


def unknown_domain(model):
    model.graph.node[1].domain = "their.own"


def no_operator(model):
    model.graph.node[1].ClearField("op_type")


def foreign_attribute(model):
    model.graph.node[1].attribute.append(helper.make_attribute("alpha", 1.0))


def too_few_inputs(model):
    del model.graph.node[0].input[1:]


def stored_twice(model):
    model.graph.initializer.append(model.graph.initializer[0])


def declared_twice(model):
    model.graph.input.append(model.graph.input[0])


def too_few_values(model):
    model.graph.initializer[0].raw_data = b"1234"


DAMAGES = {
    no_input_shape: "input 'input' has no shape; expected [N, 3, H, W]",
    no_input_type: "input 'input' has no type; expected float32",
    newer_ir: "its IR version is 99, and onnx",
    older_ir: "its IR version is 2, older than",
    no_opset: "it does not say of which opset",
    only_another_opset: "it does not say of which opset",
    two_opsets: "it says 17 and 11 for the opset of the same operators",
    made_twice: "tensor 'conv' is made by two nodes",
    constant_made_again: "tensor 'conv.weight' is a constant, and made by node 'relu', too",
    input_made_again: "tensor 'input' is an input, and made by node 'relu', too",
    out_of_order: "node 'relu' reads 'conv', which is made after it",
    reads_nothing: "node 'conv' reads 'gone', which nothing makes",
    gives_nothing: "its output 'gone' is made by no node",
    unknown_operator: "node 'relu' is a Rleu, which opset 17 does not have",
    operator_of_a_later_opset: "node 'relu' is a Gelu, which opset 17 does not have",
    unknown_domain: "node 'relu' is a Relu of domain 'their.own'",
    no_operator: "node 'relu' does not say which operator it is",
    foreign_attribute: "node 'relu' is no Relu as its opset has it: Unrecognized attribute: alpha",
    too_few_inputs: "node 'conv' is no Conv as its opset has it",
    stored_twice: "constant 'conv.weight' is stored twice",
    declared_twice: "input 'input' is declared twice",
    too_few_values: "constant 'conv.weight' does not hold as many values as its shape says",
}
TO_DO = ("export it", "install a newer onnx")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_the_checker_refuses_is_told_in_words(damage, tmp_path):
    model = classifier()
    damage(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError) as told:
        read_onnx(path)
    assert f"{path} is no valid ONNX file: {DAMAGES[damage]}" in str(told.value)
    assert any(words in str(told.value) for words in TO_DO)
    found = the_finding(lint_model(model, ONNX_RUNTIME), "I006").message
    assert DAMAGES[damage] in found


def test_what_readers_do_without_is_filled_in(tmp_path):
    """Files without a name of the graph, or without types of their outputs, open in ONNX Runtime."""
    model = classifier()
    model.graph.ClearField("name")
    model.graph.output[0].ClearField("type")
    content = model.SerializeToString()
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert read_onnx(path).num_classes == 5


def test_functions_of_the_file_are_written_out(tmp_path):
    model = classifier()
    function = helper.make_function(
        "own", "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "own"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    read = read_onnx(path).model
    assert [node.op_type for node in read.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    pictures = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"input": pictures}
        )[0]
        for each in (model, read)
    ]
    assert np.array_equal(*answers)


def test_a_function_in_place_of_an_own_operator_is_refused(tmp_path):
    """ONNX Runtime computes its own Relu, onnx's reference the file's."""
    model = classifier()
    other = [helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5)]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], other, [helper.make_opsetid("", 17)]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="says itself what Relu of ONNX's own operators computes"):
        read_onnx(path)


def test_sparse_weights_are_refused(tmp_path):
    model = classifier()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    values = helper.make_tensor("conv.weight", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [0, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(weight.dims)))
    model.graph.initializer.remove(weight)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="stores 1 weight as sparse tensors"):
        read_onnx(path)


def test_the_other_name_of_the_own_domain(tmp_path):
    """ "ai.onnx" is "", and one opset may be imported twice: ONNX Runtime opens such files."""
    model = classifier()
    for node in model.graph.node:
        node.domain = "ai.onnx"
    model.opset_import.append(helper.make_opsetid("", 17))
    content = model.SerializeToString()
    onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    read = read_onnx(path).model
    assert {node.domain for node in read.graph.node} == {""}
    assert len(read.opset_import) == 1
    assert "I006" not in rule_ids(lint_file(path, ONNX_RUNTIME))


def test_lint_looks_into_functions_of_the_file():
    model = classifier()
    drop = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True])),
        helper.make_node("Dropout", ["a", "half", "yes"], ["b"]),
    ]
    model.functions.append(helper.make_function("own", "Act", ["a"], ["b"], drop, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "own"
    found = rule_ids(lint_model(model, ONNX_RUNTIME))
    assert "B004" in found
    assert "D003" not in found
    assert len(model.functions) == 1


def narrow(model, kind, *, as_node=False, computes=False):
    """Store the first weight in 16 bits, made float32 before it is read unless the graph `computes` with them."""
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight)
    stored = helper.make_tensor("stored", kind, values.shape, values.reshape(-1))
    model.graph.initializer.remove(weight)
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["stored"], value=stored))
    else:
        model.graph.initializer.append(stored)
    place = int(as_node)
    name = "stored"
    if computes:
        model.graph.node.insert(place, helper.make_node("Neg", [name], ["turned"]))
        name, place = "turned", place + 1
    model.graph.node.insert(place, helper.make_node("Cast", [name], ["conv.weight"], to=TensorProto.FLOAT))
    return model


@pytest.mark.parametrize("as_node", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_that_are_only_stored_in_16_bits_are_taken(kind, as_node, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(narrow(classifier(), kind, as_node=as_node).SerializeToString())
    assert read_onnx(path).num_classes == 5
    path.write_bytes(narrow(classifier(), kind, as_node=as_node, computes=True).SerializeToString())
    name = TensorProto.DataType.Name(kind).lower()
    with pytest.raises(
        OnnxFileError, match=f"got 1 weight of {name}, first 'stored', expected float32; export it from"
    ):
        read_onnx(path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_pictures_of_another_type_are_refused_with_what_to_do(kind, tmp_path):
    model = classifier()
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.node[0].input[0] = "float"
    model.graph.node.insert(0, helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=r"expected float32; export it from the float32 model \(model\.float\(\)"):
        read_onnx(path)


def test_a_graph_that_can_be_walked():
    assert why_not_walkable(classifier().graph) == ""
