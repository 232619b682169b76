"""Reductions whose axes OpenVINO does not read at opset 13 to 17: it and ONNX's evaluator answer as before."""

import io

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.graph.onnx_graph import attribute
from exporter.passes.convert_opset import checked, convert_opset
from exporter.tracing.spell_reductions import spell_reductions

X = np.random.default_rng(0).uniform(0.5, 90, (2, 3, 4, 4)).astype(np.float32)  # exp(90) is more than float32 holds


def reduced(kind, axes, keepdims, *, opset=17):
    graph = GraphBuilder(channels=3, size=4)
    constant = graph.constant("axes", np.array(axes, np.int64))
    model = graph.model(graph.node(kind, "reduced", "input", constant, keepdims=keepdims), opset=18)
    return convert_opset(model, opset)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2, 3], [-1]])
@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceLogSum", "ReduceLogSumExp"])
def test_answers_are_those_of_the_reduction(kind, axes, keepdims):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed; the [openvino] extra brings it")
    model = reduced(kind, axes, keepdims)
    (expected,) = ReferenceEvaluator(model).run(None, {"input": X.astype(np.float64).astype(np.float32)})
    spell_reductions(model)
    assert kind not in {node.op_type for node in model.graph.node}
    checked(model)
    (answer,) = ReferenceEvaluator(model).run(None, {"input": X})
    core = openvino.Core()
    network = core.compile_model(
        core.read_model(io.BytesIO(model.SerializeToString())), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for got in (answer, network(X)[0]):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "opset"), [("ReduceL1", 18), ("ReduceL1", 20), ("ReduceL2", 17), ("ReduceMean", 17)])
def test_what_every_reader_reads_is_left_alone(kind, opset):
    model = reduced(kind, [2, 3], 1, opset=opset)
    before = model.SerializeToString()
    spell_reductions(model)
    assert model.SerializeToString() == before


def test_without_axes_there_is_nothing_to_read():
    graph = GraphBuilder()
    model = graph.model(graph.node("ReduceL1", "reduced", "input"), opset=17)
    spell_reductions(model)
    assert [node.op_type for node in model.graph.node] == ["ReduceL1"]
    assert attribute(model.graph.node[0], "axes", None) is None
