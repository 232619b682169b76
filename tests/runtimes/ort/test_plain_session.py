"""A plain session beside the file as it is written: right files agree, and what breaks a wrong one is named."""

import numpy as np
import onnx
import onnxruntime
import pytest
from quantized_graphs import OURS, float_layer_between_pairs, residual_network
from two_pairs import pair_behind_pair
from weight_only import weight_only_layer

from runtimes.errors import RuntimeAdapterError
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import why_int8_saturates
from runtimes.ort.plain_session import ALLOWED_DB, ENOUGH_DB, PlainRuntime, PlainSession, compare_plain_session

X = np.random.default_rng(3).normal(size=(6, 3, 8, 8)).astype(np.float32)


def as_written(model):
    with OrtRuntime(model, exact_qdq=True) as runtime:
        return next(iter(runtime.run({"input": X}).values()))


def near(answers):
    """Return a reference that the file misses by its own error, 1 % of the signal."""
    noise = np.random.default_rng(4).normal(size=answers.shape)
    return (answers + 0.01 * np.sqrt(np.mean(np.square(answers))) * noise).astype(np.float32)


def with_overflowing_bias(model):
    """Give one layer weights so small beside its bias that INT32 does not hold the bias in their steps."""
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name == "layer1.0.conv1.weight.scale":
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1e-9), tensor.name))
        elif tensor.name == "layer1.0.conv1.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([1, -1, 2, 1.5]), tensor.name))
    return model


def test_a_model_in_memory_is_opened_from_its_bytes():
    """Its text spells out every weight: 3 s and gigabytes for a ResNet-50."""

    class Model:
        def SerializeToString(self):
            return content

        def __str__(self):
            raise AssertionError("the model was spelled out")

    model = residual_network(OURS, opset=19)
    content = model.SerializeToString()
    assert compare_plain_session(Model(), X, near(as_written(model))).agrees


def test_a_right_file_agrees(tmp_path):
    model = residual_network(OURS, opset=19)
    onnx.save(model, tmp_path / "model.onnx")
    expected = near(as_written(model))
    for source in (model, model.SerializeToString(), tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        found = compare_plain_session(source, X, expected)
        assert found.agrees
        assert not found.cause
        assert "plain ONNX Runtime session" in found.sentence


def test_a_bias_that_becomes_integer_and_overflows_is_named():
    model = with_overflowing_bias(residual_network(OURS, opset=19))
    found = compare_plain_session(model, X, near(as_written(model)))
    assert not found.agrees
    assert found.written_db > 35 > found.plain_db
    assert "WeightBiasQuantization" in found.sentence


def test_float_weights_that_become_integer_are_named():
    """Of the second channel, which is 0 in INT8 of one scale, nothing is left."""
    graph, layer = float_layer_between_pairs()
    last = graph.constant("last", np.int64([1]))
    model = graph.model(graph.node("Gather", "answer", layer, last, axis=1), opset=19)
    x = np.random.default_rng(0).uniform(-6, 6, (4, 3, 8, 8)).astype(np.float32)
    found = compare_plain_session(model, x, np.float32(0.0003) * x.sum(axis=1, keepdims=True))
    assert not found.agrees
    assert found.written_db > 30
    assert found.plain_db < 1
    assert "float weights into INT8 of one scale" in found.sentence


def test_a_kernel_that_computes_something_else_is_named():
    """An average pool that counts padding and rounds its size up, quantized on both sides."""
    from graph_builder import GraphBuilder

    graph = GraphBuilder(channels=3)
    scale, zero = graph.constant("scale", np.float32(0.05)), graph.constant("zero", np.uint8(120))

    def pair(name):
        quantized = graph.node("QuantizeLinear", f"{name}.q", name, scale, zero)
        return graph.node("DequantizeLinear", f"{name}.dq", quantized, scale, zero)

    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}
    pool = graph.node("AveragePool", "pool", pair("input"), **shape)
    model = graph.model(pair(pool), opset=19)
    found = compare_plain_session(model, X, near(as_written(model)))
    assert not found.agrees
    assert "integer kernels compute something else" in found.cause


def test_a_file_of_a_fixed_batch_is_run_in_pieces():
    model = residual_network(OURS, opset=19)
    expected = near(as_written(model))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 4
    assert compare_plain_session(model, X, expected).agrees


@pytest.mark.parametrize(
    ("written", "plain", "agrees"),
    [
        (30.0, 30.0 - ALLOWED_DB, True),
        (30.0, 30.0 - ALLOWED_DB - 0.1, False),
        (np.inf, ENOUGH_DB, True),
        (np.inf, ENOUGH_DB - 1, False),
        (30.0, -np.inf, False),
    ],
)
def test_what_agrees(written, plain, agrees):
    assert PlainSession(written, plain, "why").agrees is agrees


def test_a_file_that_does_not_load_is_told():
    with pytest.raises(RuntimeAdapterError, match="ONNX Runtime does not run the model"):
        compare_plain_session(b"no model", X, X)


def test_answers_that_are_there_already_are_not_computed_again():
    model = residual_network(OURS, opset=19)
    written = as_written(model)
    expected = near(written)
    assert compare_plain_session(model, X, expected, written) == compare_plain_session(model, X, expected)
    off = compare_plain_session(model, X, expected, written + np.float32(1))
    assert off.written_db < off.plain_db, "these were taken"
    off = compare_plain_session(model, X, expected, written, written + np.float32(1))
    assert off.plain_db < off.written_db, "these too"


def test_the_plain_runtime_answers_as_a_session_without_options_does():
    model = residual_network(OURS, opset=19)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with PlainRuntime(model) as runtime:
        (output,) = runtime.output_specs
        assert str(runtime.input_specs["input"]) == "float32 [N, 3, 8, 8]"
        assert np.array_equal(runtime.run({"input": X})[output], session.run(None, {"input": X})[0])
        with pytest.raises(RuntimeAdapterError, match="does not run the model"):
            runtime.run({"input": X[:, :2]})


@pytest.mark.skipif(bool(why_int8_saturates()), reason="without VNNI, ONNX Runtime may leave float inputs alone")
def test_float_inputs_that_become_integers_are_named():
    model, x, expected = weight_only_layer("Gemm")
    found = compare_plain_session(model, x, expected)
    assert not found.agrees
    assert not found.saturates
    assert found.plain_db < 10 < 100 < found.written_db
    assert "session.qdq_matmulnbits_accuracy_level=1" in found.sentence


def test_pairs_that_become_one_are_named():
    model, x, expected = pair_behind_pair(0.25, 0.02)
    found = compare_plain_session(model, x, expected)
    assert not found.agrees
    assert not found.saturates
    assert found.plain_db < 30 < 100 < found.written_db
    assert "session.disable_double_qdq_remover=1" in found.sentence
    model, x, expected = pair_behind_pair(0.02, 0.02)
    assert compare_plain_session(model, x, expected).agrees
