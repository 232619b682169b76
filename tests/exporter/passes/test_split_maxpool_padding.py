"""split_zero_padding against onnx's reference evaluator, and the ONNX Runtime fault that it avoids."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.split_maxpool_padding import split_zero_padding
from runtimes.ort.adapter import OrtRuntime

NEGATIVE = -np.abs(np.random.default_rng(0).normal(size=(2, 2, 8, 8))).astype(np.float32) - 1


def padded_pool(pads, *, value=0.0, pool=None, mode="constant", op_type="MaxPool"):
    graph = GraphBuilder()
    amounts = graph.constant("pads", np.array([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64))
    constant = graph.constant("value", np.array(value, np.float32))
    x = graph.node("Pad", "pad", "input", amounts, constant, mode=mode)
    pool = {"kernel_shape": [3, 3], "strides": [2, 2]} | (pool or {})
    return infer_shapes(graph.model(graph.node(op_type, "pool", x, **pool)))


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 1, 0), (2, 2, 2, 2), (0, 0, 1, 1)])
def test_zeros_win_over_negative_values(pads):
    model = padded_pool(pads)
    result = split_zero_padding(model)
    assert result.num_changes == 1
    assert [node.op_type for node in result.model.graph.node] == ["MaxPool", "Max"]
    (expected,) = ReferenceEvaluator(model).run(None, {"input": NEGATIVE})
    assert (expected == 0).any()
    (got,) = ReferenceEvaluator(infer_shapes(result.model)).run(None, {"input": NEGATIVE})
    assert np.array_equal(got, expected)
    with OrtRuntime(result.model) as runtime:
        assert np.array_equal(runtime.run({"input": NEGATIVE})["pool"], expected)


def test_onnxruntime_still_needs_it():
    """When this fails, ONNX Runtime no longer fuses Pad into MaxPool wrongly, and the pass can go.

    Sessions of ours switch the fusion off (`runtimes.ort.session`); a file is for other people's, too.
    """
    model = padded_pool((1, 1, 1, 1))
    (expected,) = ReferenceEvaluator(model).run(None, {"input": NEGATIVE})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": NEGATIVE})
    assert not np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("op_type", "pads", "pool"),
    [
        ("MaxPool", (1, 1, 1, 1), {"pads": [1, 1, 1, 1]}),
        ("MaxPool", (1, 1, 1, 1), {"dilations": [2, 2]}),
        ("MaxPool", (1, 1, 1, 1), {"ceil_mode": 1}),
        ("MaxPool", (3, 3, 3, 3), {}),
        ("MaxPool", (0, 0, 3, 3), {}),
        ("AveragePool", (3, 3, 3, 3), {}),
        ("AveragePool", (2, 2, 2, 2), {"pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ],
)
def test_a_default_session_answers_as_the_standard(op_type, pads, pool):
    """A session of ONNX Runtime with all its optimizations fused these into what is wrong, or did not open them."""
    model = padded_pool(pads, pool=pool, op_type=op_type)
    result = split_zero_padding(model)
    assert result.num_changes == 1
    assert [node.op_type for node in result.model.graph.node] == ["Pad", "Slice", op_type]
    (expected,) = ReferenceEvaluator(model).run(None, {"input": NEGATIVE})
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": NEGATIVE})
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("op_type", "options"),
    [("MaxPool", {"value": -np.inf}), ("MaxPool", {"mode": "edge"}), ("AveragePool", {})],
)
def test_what_fuses_rightly_is_left_alone(op_type, options):
    assert split_zero_padding(padded_pool((1, 1, 1, 1), op_type=op_type, **options)).num_changes == 0
