"""spell_out_gelu against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.decompose_gelu import spell_out_gelu


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_equals_pytorch(approximate):
    graph = GraphBuilder()
    first = graph.node("Gelu", "gelu", "input", approximate=approximate)
    model = graph.model(graph.node("Gelu", "again", first, approximate=approximate), opset=20)
    result = spell_out_gelu(model)
    assert result.num_changes == 2
    assert "Gelu" not in {node.op_type for node in result.model.graph.node}
    x = np.random.default_rng(0).normal(0, 3, (2, 2, 8, 8)).astype(np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate)
    expected = torch.nn.functional.gelu(expected, approximate=approximate).numpy()
    infer_shapes(result.model)
    np.testing.assert_allclose(ReferenceEvaluator(result.model).run(None, {"input": x})[0], expected, atol=1e-6)


def test_nothing_to_do():
    graph = GraphBuilder()
    assert spell_out_gelu(graph.model(graph.node("Relu", "relu", "input"))).num_changes == 0
