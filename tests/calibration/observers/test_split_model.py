"""A model with its weights beside it answers like the whole one, and becomes whole again."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_array_equal
from onnx import ModelProto, TensorProto

from calibration.observers.split_model import MIN_BYTES, SplitModel, split_model
from runtimes.errors import RuntimeAdapterError
from runtimes.ort.adapter import OrtRuntime


def network() -> ModelProto:
    """Two layers with large weights, biases that stay, and a constant kept in `float_data`."""
    build = GraphBuilder(channels=3, size=16)
    build.node("Relu", "relu", build.conv("conv", "input", 64))
    build.conv("out", "relu", 64)
    model = build.model("out")
    for tensor in model.graph.initializer:
        if tensor.name == "out.bias":
            values = onnx.numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.tolist())
    return model


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(20261122).normal(size=(2, 3, 16, 16)).astype(np.float32)


def test_large_weights_lie_beside_and_the_rest_stays() -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)
    split = split_model(model)
    assert model.SerializeToString(deterministic=True) == before
    assert list(split.weights) == ["conv.weight", "out.weight"]
    places = {tensor.name: tensor.data_location for tensor in split.skeleton.graph.initializer}
    assert places.keys() == {tensor.name for tensor in model.graph.initializer}
    assert {name for name, place in places.items() if place == TensorProto.EXTERNAL} == split.weights.keys()
    assert len(split.skeleton.SerializeToString()) < MIN_BYTES


def test_whole_again_it_is_the_model() -> None:
    model = network()
    again = onnx.load_from_string(split_model(model).SerializeToString())
    onnx.checker.check_model(again, full_check=True)
    arrays = [
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in each.graph.initializer}
        for each in (model, again)
    ]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        assert_array_equal(arrays[1][name], array)
    assert again.graph.node == model.graph.node


@pytest.mark.parametrize("exact_qdq", [False, True])
def test_a_session_answers_bit_for_bit(images: np.ndarray, exact_qdq: bool) -> None:
    model = network()
    with OrtRuntime(model, exact_qdq=exact_qdq) as whole, OrtRuntime(split_model(model), exact_qdq=exact_qdq) as split:
        gc.collect()  # the arrays must live as long as the session, and nobody else holds them
        assert_array_equal(split.run({"input": images})["out"], whole.run({"input": images})["out"])
        assert split.input_specs == whole.input_specs


def test_weights_live_as_long_as_the_session(images: np.ndarray) -> None:
    """Also in a thread that computes while another closes the runtime: it holds the session, not the runtime."""
    split = split_model(network())
    weights = [weakref.ref(array) for array in split.weights.values()]
    runtime = OrtRuntime(split)
    session = runtime._open_session()
    del split
    runtime.close()
    gc.collect()
    assert all(array() is not None for array in weights)
    session.run(None, {"input": images})
    del session
    gc.collect()
    assert all(array() is None for array in weights)


def test_a_missing_or_wrong_weight_is_an_error_not_an_answer() -> None:
    split = split_model(network())
    for weights in ({}, {**split.weights, "conv.weight": np.zeros((1, 2), np.float32)}):
        with pytest.raises(RuntimeAdapterError, match="ONNX Runtime does not load"):
            OrtRuntime(SplitModel(split.skeleton, weights))
