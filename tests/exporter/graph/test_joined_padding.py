"""joined_padding against plain ONNX Runtime sessions: where they answer otherwise, or do not open, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import helper

from exporter.graph.joined_padding import joined_padding
from exporter.graph.onnx_graph import array_from_initializer, index_graph
from runtimes.ort.session import _wrong_optimizers

NEGATIVE = -np.abs(np.random.default_rng(0).normal(size=(2, 2, 8, 8))).astype(np.float32) - 1
JOINED, TOO_WIDE, ALONE = "joined", "too wide", "alone"


def padded_pool(
    kind="MaxPool", amounts=(1, 1, 1, 1), *, value=None, mode="constant", between=None, opset=17, other=None, **pool
):
    """A Pad and a pool of a 3 x 3 window; `amounts` are of height and width, beginnings first."""
    graph = GraphBuilder()
    begins, ends = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
    sides = [0] * (4 - len(begins)), [0] * (4 - len(ends))
    constants = [graph.constant("pads", np.array([*sides[0], *begins, *sides[1], *ends], np.int64))]
    if value is not None:
        constants.append(graph.constant("value", np.array(value, np.float32)))
    if other == "axes":
        constants = [graph.constant("pads", np.array(amounts, np.int64)), graph.constant("zero", np.float32(0))]
        constants.append(graph.constant("axes", np.array([2, 3], np.int64)))
    x = graph.node("Pad", "pad", "input", *constants, mode=mode)
    if between is not None:
        x = graph.node(between, "between", x, **({"to": 1} if between == "Cast" else {}))
    ends = [graph.node(kind, "pool", x, **({"kernel_shape": [3, 3], "strides": [2, 2]} | pool))]
    if other == "two readers":
        ends.append(graph.node("Neg", "neg", x))
    model = graph.model(*ends, *(["pad"] if other == "output" else []), opset=opset)
    if other == "indices":
        model.graph.node[-1].output.append("indices")
    return model


def told(model):
    index = index_graph(model.graph)
    values = {name: array_from_initializer(tensor) for name, tensor in index.initializer.items()}
    pool = next(node for node in model.graph.node if node.op_type.endswith("Pool"))
    found = joined_padding(pool, index, values.get)
    return ALONE if found is None else TOO_WIDE if found.is_too_wide else JOINED


def seen(model):
    """What a plain session makes of it: TOO_WIDE if it does not open, JOINED if optimizations change its answer."""
    expected = opened(model, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).run(["pool"], {"input": NEGATIVE})[0]
    try:
        session = opened(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    except Exception as err:
        if "Pad should be smaller than kernel" not in str(err):
            raise
        return TOO_WIDE
    return ALONE if np.allclose(session.run(["pool"], {"input": NEGATIVE})[0], expected, atol=1e-6) else JOINED


def opened(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, JOINED),
        ({"value": 0.0}, JOINED),
        ({"amounts": (2, 2, 2, 2)}, JOINED),
        ({"amounts": (3, 3, 3, 3)}, TOO_WIDE),
        ({"amounts": (0, 0, 3, 0)}, TOO_WIDE),
        ({"amounts": (0, 2, 0, 2), "kernel_shape": [3, 2]}, TOO_WIDE),
        ({"amounts": (2, 0, 2, 0), "kernel_shape": [3, 2]}, JOINED),
        ({"pads": [1, 1, 1, 1]}, JOINED),
        ({"amounts": (2, 2, 2, 2), "pads": [1, 1, 1, 1]}, TOO_WIDE),
        ({"amounts": (3, 3, 3, 3), "dilations": [2, 2], "strides": [1, 1], "opset": 19}, TOO_WIDE),
        ({"amounts": (3, 3, 3, 3), "opset": 25}, TOO_WIDE),
        ({"between": "Cast", "amounts": (3, 3, 3, 3)}, TOO_WIDE),
        ({"between": "Identity"}, JOINED),
        ({"between": "Relu", "amounts": (3, 3, 3, 3)}, ALONE),
        ({"amounts": (3, 3, 3, 3), "value": -0.0}, ALONE),
        ({"amounts": (3, 3, 3, 3), "value": -9.0}, ALONE),
        ({"amounts": (3, 3, 3, 3), "mode": "edge"}, ALONE),
        ({"amounts": (-1, 3, 3, 3)}, ALONE),
        ({"amounts": (1, 3, 3, 1, 3, 3)}, ALONE),
        ({"amounts": (3, 3, 3, 3), "other": "axes", "opset": 18}, ALONE),
        ({"amounts": (3, 3, 3, 3), "other": "indices"}, ALONE),
        ({"amounts": (3, 3, 3, 3), "other": "two readers"}, ALONE),
        ({"amounts": (3, 3, 3, 3), "other": "output"}, ALONE),
        ({"amounts": (3, 3, 3, 3), "auto_pad": "SAME_UPPER"}, ALONE),
        ({"amounts": (3, 3, 3, 3), "auto_pad": "VALID"}, ALONE),
        ({"kind": "AveragePool", "amounts": (3, 3, 3, 3)}, TOO_WIDE),
        ({"kind": "AveragePool", "amounts": (2, 2, 2, 2), "pads": [1] * 4, "count_include_pad": 1}, TOO_WIDE),
        ({"kind": "AveragePool", "amounts": (2, 2, 2, 2), "pads": [1] * 4}, ALONE),
        ({"kind": "LpPool", "amounts": (3, 3, 3, 3)}, ALONE),
    ],
)
def test_what_sessions_join(form, expected):
    model = padded_pool(**form)
    assert told(model) == expected
    assert seen(model) == (expected if _wrong_optimizers() else ALONE)


def test_an_average_is_joined_and_stays_right():
    model = padded_pool("AveragePool", (2, 2, 2, 2))
    assert (told(model), seen(model)) == (JOINED, ALONE)


def test_what_is_not_known_is_left_alone():
    model = padded_pool()
    pool = model.graph.node[-1]
    assert joined_padding(pool, index_graph(model.graph), lambda _: None) is None
    pool.attribute.remove(next(entry for entry in pool.attribute if entry.name == "kernel_shape"))
    assert told(model) == ALONE


def test_padding_as_an_attribute_before_opset_11():
    model = padded_pool(amounts=(3, 3, 3, 3))
    pad = model.graph.node[0]
    del pad.input[1:]
    pad.attribute.extend(helper.make_attribute(*entry) for entry in (("pads", [0, 0, 3, 3] * 2), ("value", 0.0)))
    model.opset_import[0].version = 10
    assert told(model) == TOO_WIDE
    assert seen(model) == (TOO_WIDE if _wrong_optimizers() else ALONE)
    pad.attribute[-1].f = 1.0
    assert (told(model), seen(model)) == (ALONE, ALONE)
