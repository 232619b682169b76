"""convert_opset where onnx's converter alone refuses, and what `checked` refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.errors import ExportError
from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.convert_opset import checked, convert_opset
from runtimes.ort.adapter import OrtRuntime


def padded(*, mode="constant", axes=False):
    graph = GraphBuilder()
    amounts = [1, 1, 1, 1] if axes else [0, 0, 1, 1, 0, 0, 1, 1]
    inputs = [graph.constant("pads", np.array(amounts, np.int64)), graph.constant("value", np.float32(0))]
    if axes:
        inputs.append(graph.constant("axes", np.array([2, 3], np.int64)))
    return graph.model(graph.node("Relu", "out", graph.node("Pad", "pad", "input", *inputs, mode=mode)), opset=20)


@pytest.mark.parametrize("opset", [15, 17, 18, 20])
def test_pad_is_the_same_in_every_opset(opset):
    model = padded()
    converted = convert_opset(model, opset)
    assert [(entry.domain, entry.version) for entry in converted.opset_import] == [("", opset)]
    assert {node.domain for node in converted.graph.node} == {""}
    checked(converted)
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    outputs = [ReferenceEvaluator(each).run(None, {"input": x})[0] for each in (model, converted)]
    assert np.array_equal(*outputs)


SCALES = np.linspace(0.5, 2, 2).astype(np.float32)


@pytest.mark.parametrize(
    ("op_type", "of", "to", "constants", "options"),
    [
        ("GroupNormalization", 21, 20, (SCALES, SCALES), {"num_groups": 2}),
        ("RMSNormalization", 23, 20, (np.ones((2, 8, 8), np.float32),), {"axis": 1}),
        ("Swish", 24, 20, (), {}),
        ("Swish", 24, 20, (), {"alpha": 0.5}),
        ("Mish", 18, 17, (), {}),
    ],
)
def test_operators_of_a_newer_opset_are_spelled_out(op_type, of, to, constants, options):
    graph = GraphBuilder()
    read = [graph.constant(f"constant{place}", values) for place, values in enumerate(constants)]
    new = graph.node(op_type, "new", "input", *read, **options)
    size = graph.constant("size", np.array([-1, 2, 8, 8], np.int64))
    model = graph.model(graph.node("Reshape", "out", new, size), opset=of)
    converted = convert_opset(model, to)
    assert op_type not in {node.op_type for node in converted.graph.node}
    assert all(node.name for node in converted.graph.node)
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"input": x})
    with OrtRuntime(converted) as runtime:
        assert runtime.run({"input": x})["out"] == pytest.approx(expected, abs=1e-5)


def test_an_operator_that_nothing_spells_is_refused_by_name():
    graph = GraphBuilder()
    axis = graph.constant("axis", np.int64(1))
    model = graph.model(graph.node("CumProd", "out", "input", axis), opset=26)
    with pytest.raises(ExportError, match=r"opset 20: it has no CumProd, which is of opset 26, in 'out'"):
        convert_opset(model, 20)


@pytest.mark.parametrize("options", [{"mode": "wrap"}, {"axes": True}])
def test_pads_that_older_opsets_do_not_have_are_refused(options):
    with pytest.raises(ExportError, match="cannot be written in opset 17"):
        convert_opset(padded(**options), 17)


def test_number_of_outputs():
    graph = GraphBuilder()
    model = infer_shapes(graph.model(graph.node("Relu", "a", "input"), graph.node("Abs", "b", "input")))
    assert len(checked(model, num_outputs=2).graph.output) == 2
    with pytest.raises(ExportError, match="has 2 outputs, expected one"):
        checked(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("opset", "op", "scale"),
    [(9, "Upsample", 1.2), (9, "Upsample", 2.0), (7, "Upsample", 2.0), (10, "Resize", 1.7), (10, "Resize", 0.9)],
)
def test_old_resizing_answers_as_in_the_file(mode, opset, op, scale):
    graph = GraphBuilder()
    sizes = [1.0, 1.0, scale, scale]
    options = {"scales": sizes} if opset == 7 else {}
    scales = () if opset == 7 else (graph.constant("scales", np.float32(sizes)),)
    nodes = [onnx.helper.make_node(op, ["input", *scales], ["out"], name="up", mode=mode, **options)]
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["batch", 2, None, None])
    body = onnx.helper.make_graph(nodes, "old", graph.inputs, [out], list(graph.initializers.values()))
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=4)
    x = {"input": np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)}
    answers = []
    for each in (model, convert_opset(model, 17), convert_opset(model, 20)):
        with OrtRuntime(each) as runtime:
            answers.append(runtime.run(x)["out"])
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-6)
