"""convert_opset where onnx's converter alone refuses, and what `checked` refuses."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.errors import ExportError
from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.convert_opset import checked, convert_opset


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
