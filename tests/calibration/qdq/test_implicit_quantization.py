"""Q/DQ in the notation of implicit quantization: the same numbers, and what it adds."""

from functools import partial

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx import numpy_helper

from calibration import calibrate, insert_qdq
from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.qdq.implicit_quantization import complete_scales, simulate_dla, strip_qdq
from exporter.passes.float16_qdq import float16_qdq_from_float32
from exporter.passes.lower_global_pool import average_pool_from_global
from runtimes.ort.adapter import OrtRuntime

exact = partial(OrtRuntime, exact_qdq=True)


def answers(model, images):
    with exact(model) as runtime:
        return next(iter(runtime.run({"input": images}).values()))


@pytest.fixture(scope="module")
def digits(digits_network):
    """The float model, its Q/DQ model with windows for pools, and the table."""
    images = digits_network.calibration[:64]
    table = calibrate(digits_network.model, np.array_split(images, 4), open_runtime=OrtRuntime)
    quantized = insert_qdq(digits_network.model, table).model
    return digits_network, average_pool_from_global(quantized).model, table


@pytest.fixture(scope="module")
def stripped(digits):
    return strip_qdq(digits[1])


@pytest.fixture(scope="module")
def scales(digits, stripped):
    return complete_scales(stripped, np.array_split(digits[0].calibration[:64], 4), open_runtime=OrtRuntime)


def test_no_pair_is_left_and_the_model_is_sound(stripped, digits):
    onnx.checker.check_model(stripped.model, full_check=True)
    kinds = [node.op_type for node in stripped.model.graph.node]
    assert kinds == [
        kind.replace("GlobalAveragePool", "AveragePool")
        for kind in (node.op_type for node in digits[0].model.graph.node)
    ]
    assert {tensor.data_type for tensor in stripped.model.graph.initializer} == {onnx.TensorProto.FLOAT}


def test_scales_are_the_tables(stripped, digits):
    table = digits[2]
    assert stripped.scales == {name: pytest.approx(kept.scale, rel=1e-7) for name, kept in table.ranges.items()}


def test_weights_are_the_int8_files_not_the_float_models(stripped, digits):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in digits[1].graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in stripped.model.graph.initializer}
    name = "layer2.0.conv1.weight"
    expected = constants[name] * constants[f"{name}.scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weights[name], expected.astype(np.float32))


def test_tensorrt_finds_our_weight_scales_again(stripped):
    assert len(stripped.weights) == 22
    assert max(weight.largest_deviation for weight in stripped.weights.values()) < 1e-6


def test_the_cache_means_the_numbers_of_the_qdq_file(stripped, digits):
    network, quantized, _ = digits
    images = network.held_out[:64]
    expected = answers(quantized, images)
    for as_in_file in (True, False):  # TensorRT's weight scales are ours here
        model = simulate_dla(stripped, stripped.scales, as_in_file=as_in_file)
        np.testing.assert_allclose(answers(model, images), expected, rtol=0, atol=1e-5)
    assert np.abs(answers(stripped.model, images) - expected).max() > 0.01  # rounding does something


def test_a_scale_that_is_off_would_show(stripped, digits):
    network, quantized, _ = digits
    images = network.held_out[:16]
    off = {**stripped.scales, "relu": stripped.scales["relu"] * 1.02}
    assert np.abs(answers(simulate_dla(stripped, off), images) - answers(quantized, images)).max() > 1e-3


def test_scales_before_relu_and_pool_change_nothing(stripped, digits, scales):
    network, quantized, _ = digits
    images = network.held_out[:64]
    derived = {"conv1": "relu", "layer1.0.add": "layer1.0.relu_1", "layer3.1.conv1": "layer3.1.relu"}
    assert {name: scales[name] for name in derived} == {name: scales[source] for name, source in derived.items()}
    chosen = {**stripped.scales, **{name: scales[name] for name in derived}}
    got = answers(simulate_dla(stripped, chosen), images)
    np.testing.assert_allclose(got, answers(quantized, images), rtol=0, atol=1e-5)


def test_every_tensor_has_a_scale(stripped, scales):
    assert list(scales) == ["input", *(name for node in stripped.model.graph.node for name in node.output)]
    assert scales["avgpool"] == scales["layer3.2.relu_1"]
    assert {name: scales[name] for name in stripped.scales} == stripped.scales


def test_every_tensor_in_int8_still_answers(stripped, digits, scales):
    network = digits[0]
    images = network.held_out[:128]
    reference, got = answers(network.model, images), answers(simulate_dla(stripped, scales), images)
    assert np.mean(reference.argmax(1) == got.argmax(1)) > 0.95
    with exact(simulate_dla(stripped, scales)) as runtime:
        steps = runtime.run({"input": images[:4]})["logits"] / scales["logits"]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_measured_scale_is_the_methods(stripped, digits, scales):
    """An output of a main path, measured by hand: its amax is at most the largest value, and not far below it."""
    network = digits[0]
    from exporter.graph.onnx_graph import with_outputs

    with OrtRuntime(with_outputs(stripped.model, ["layer2.1.conv2"])) as runtime:
        values = runtime.run({"input": network.calibration[:64]})["layer2.1.conv2"]
    largest = float(np.abs(values).max())
    assert 0.5 * largest < scales["layer2.1.conv2"] * 127 <= largest * 1.001


def test_layers_left_in_float_get_no_scale(digits):
    network, _, table = digits
    model = insert_qdq(network.model, table, keep_float=["layer2.1.conv2"]).model
    stripped = strip_qdq(average_pool_from_global(model).model)
    scales = complete_scales(stripped, [network.calibration[:8]], open_runtime=OrtRuntime)
    assert "layer2.1.relu" not in scales  # what it reads
    assert "layer2.1.conv2" not in scales  # what it makes
    assert "layer2.2.conv2" in scales


def test_channels_that_do_not_use_their_range_are_told():
    made = GraphBuilder(channels=3, size=8)
    made.conv("conv", "input", 4)
    model = made.model("conv")
    images = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    quantized = insert_qdq(model, calibrate(model, [images], open_runtime=OrtRuntime)).model
    weight = next(tensor for tensor in quantized.graph.initializer if tensor.name == "conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values[1] = np.clip(values[1], -100, 100)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    found = strip_qdq(quantized).weights["conv.weight"]
    assert found.largest_deviation == pytest.approx(27 / 127, rel=1e-5)
    assert np.argmax(np.abs(found.tensorrts / found.ours - 1)) == 1
    stripped = strip_qdq(quantized)
    expected = answers(quantized, images)
    exact_model = simulate_dla(stripped, stripped.scales, as_in_file=True)
    np.testing.assert_allclose(answers(exact_model, images), expected, rtol=0, atol=1e-5)
    difference = np.abs(answers(simulate_dla(stripped, stripped.scales), images) - expected).max(axis=(0, 2, 3))
    assert difference[1] > 1e-3  # weights rounded to other steps
    assert difference[[0, 2, 3]].max() < 1e-5


def test_other_files_are_refused(digits):
    network, quantized, _ = digits
    with pytest.raises(CalibrationError, match="no Q/DQ"):
        strip_qdq(network.model)
    with pytest.raises(CalibrationError, match="float16 scales"):
        strip_qdq(float16_qdq_from_float32(quantized).model)
    made = GraphBuilder(channels=3, size=8)
    made.conv("conv", "input", 4)
    model = made.model("conv")
    images = np.ones((4, 3, 8, 8), np.float32)
    table = calibrate(model, [images], open_runtime=OrtRuntime, dialect=Dialect.ONNXRUNTIME)
    with pytest.raises(CalibrationError, match="int32 zero points"):
        strip_qdq(insert_qdq(model, table).model)


def test_no_image_is_an_error(stripped):
    with pytest.raises(CalibrationError, match="no calibration image"):
        complete_scales(stripped, [], open_runtime=OrtRuntime)
