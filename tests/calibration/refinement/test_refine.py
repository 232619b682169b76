"""refine(): a model whose only error is a shifted mean is mended, and nothing but constants changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_allclose, assert_array_equal
from onnx import ModelProto, numpy_helper

from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import Max
from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from calibration.refinement.refine import RefinedModel, refine
from exporter.graph.onnx_graph import copy_model, with_outputs
from runtimes.ort.adapter import OrtRuntime

SEED = 20261201
open_exact = partial(OrtRuntime, exact_qdq=True)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(48, 2, 8, 8)).astype(np.float32)


def quantized_from(model: ModelProto, images: np.ndarray, dialect: Dialect = Dialect.TENSORRT) -> ModelProto:
    table = calibrate(model, [images], open_runtime=OrtRuntime, dialect=dialect, method=Max())
    return insert_qdq(model, table).model


def network() -> ModelProto:
    build = GraphBuilder()
    build.node("Relu", "a.relu", build.conv("a", "input", 6))
    build.node("Add", "add", build.conv("b", "a.relu", 6), "a.relu")
    build.gemm("out", build.node("Relu", "relu", "add"), 4, transB=1)
    return build.model("out")


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_constant(model: ModelProto, name: str, values: np.ndarray) -> ModelProto:
    result = copy_model(model)
    tensor = next(tensor for tensor in result.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return result


def logits(model: ModelProto, images: np.ndarray) -> np.ndarray:
    with open_exact(model) as runtime:
        (values,) = runtime.run({"input": images}).values()
    return values


def mean_error(model: ModelProto, reference: ModelProto, images: np.ndarray) -> float:
    return float(np.abs((logits(model, images) - logits(reference, images)).mean(axis=0)).max())


def refine_on(reference: ModelProto, quantized: ModelProto, batches: list[np.ndarray], **options) -> RefinedModel:
    return refine(reference, copy_model(quantized), batches, open_runtime=open_exact, **options)[0]


def refined(
    reference: ModelProto, quantized: ModelProto, images: np.ndarray, *, round_weights: bool = False
) -> RefinedModel:
    batches = [images[:20], images[20:21], images[21:]]
    before = quantized.SerializeToString(deterministic=True)
    result = refine_on(reference, quantized, batches, effort=replace(EFFORTS[2], round_weights=round_weights))
    assert quantized.SerializeToString(deterministic=True) == before, "the given model is not changed"
    assert result.num_images == 48
    return result


@pytest.mark.parametrize("layer", ["a", "b", "out"])
def test_a_shifted_bias_comes_back(images: np.ndarray, layer: str) -> None:
    """Both sides are the same Q/DQ model, but for one bias: the correction is the shift, whatever rounding does."""
    reference = quantized_from(network(), images)
    bias = constants(reference)[f"{layer}.bias"]
    shift = np.linspace(-0.5, 0.5, len(bias)).astype(np.float32)
    shifted = with_constant(reference, f"{layer}.bias", bias + shift)
    result = refined(reference, shifted, images)
    assert_allclose(constants(result.model)[f"{layer}.bias"], bias, atol=1e-5)
    assert mean_error(shifted, reference, images) > 0.01
    assert mean_error(result.model, reference, images) < 1e-4
    (found,) = [each for each in result.layers if each.name == layer]
    assert found.largest_correction == pytest.approx(0.5, abs=1e-5)
    assert [each.name for each in result.layers] == ["a", "b", "out"]


@pytest.mark.parametrize("layer", ["a", "out"])
def test_a_lost_bias_is_made_anew(images: np.ndarray, layer: str) -> None:
    reference = quantized_from(network(), images)
    without = copy_model(reference)
    del next(node for node in without.graph.node if node.name == layer).input[2:]
    result = refined(reference, without, images).model
    (node,) = [node for node in result.graph.node if node.name == layer]
    assert_allclose(constants(result)[node.input[2]], constants(reference)[f"{layer}.bias"], atol=1e-5)
    assert mean_error(result, reference, images) < 1e-4


@pytest.mark.parametrize("layer", ["a", "b", "out"])
def test_an_integer_bias_comes_back_to_the_step(images: np.ndarray, layer: str) -> None:
    reference = quantized_from(network(), images, Dialect.ONNXRUNTIME)
    bias = constants(reference)[f"{layer}.bias"]
    assert bias.dtype == np.int32
    shift = np.arange(len(bias), dtype=np.int32) * 40 - 100
    result = refined(reference, with_constant(reference, f"{layer}.bias", bias + shift), images).model
    assert_array_equal(constants(result)[f"{layer}.bias"], bias)


def test_a_shared_bias_keeps_its_shift_and_the_layers_behind_make_up_for_it(images: np.ndarray) -> None:
    build = GraphBuilder()
    build.node("Relu", "a.relu", build.conv("a", "input", 4))
    build.conv("b", "a.relu", 4)
    build.nodes[-1].input[2] = "a.bias"
    build.gemm("out", build.node("Relu", "b.relu", "b"), 3)
    reference = quantized_from(build.model("out"), images)
    shifted = with_constant(reference, "a.bias", constants(reference)["a.bias"] + np.float32(0.3))
    result = refined(reference, shifted, images)
    assert_array_equal(constants(result.model)["a.bias"], constants(shifted)["a.bias"])
    assert [each.largest_correction > 0 for each in result.layers] == [False, False, True]
    assert mean_error(result.model, reference, images) < 0.05 * mean_error(shifted, reference, images)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_matmul_is_corrected_behind_it(images: np.ndarray, swapped: bool) -> None:
    build = GraphBuilder()
    build.node("Flatten", "flat", build.node("GlobalAveragePool", "pool", "input"), axis=1)
    build.constant("w", build.random.integers(-100, 100, (2, 3)).astype(np.int8))
    build.constant("w.scale", np.float32([0.01, 0.02, 0.03]))
    build.node(
        "DequantizeLinear", "w.dequantized", "w", "w.scale", build.constant("zero", np.zeros(3, np.int8)), axis=1
    )
    build.node("MatMul", "layer", "flat", "w.dequantized")
    build.constant("offset", np.ones(3, np.float32))
    build.node("Add", "add", *(("offset", "layer") if swapped else ("layer", "offset")))
    reference = build.model("add")
    bright = images + np.float32(2.0)
    wrong = with_constant(reference, "w", constants(reference)["w"] + np.int8(7))
    result = refined(reference, wrong, bright)
    assert mean_error(result.model, reference, bright) < 1e-3 * mean_error(wrong, reference, bright)


def structure(model: ModelProto) -> list[tuple]:
    return [(node.name, node.op_type, list(node.input), list(node.output)) for node in model.graph.node]


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("round_weights", [False, True])
def test_only_constants_change(images: np.ndarray, dialect: Dialect, round_weights: bool) -> None:
    model = network()
    quantized = quantized_from(model, images, dialect)
    result = refined(model, quantized, images, round_weights=round_weights)
    assert structure(result.model) == structure(quantized)
    assert result.model.graph.output == quantized.graph.output
    old, new = constants(quantized), constants(result.model)
    assert old.keys() == new.keys()
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    biases = {"a.bias", "b.bias", "out.bias"}
    weights = {"a.weight", "b.weight", "out.weight"}
    assert changed <= biases | weights if round_weights else changed <= biases
    assert changed & biases
    assert bool(changed & weights) == round_weights
    for name in changed & weights:
        assert new[name].dtype == np.int8
        assert np.abs(new[name].astype(int) - old[name]).max() <= 20
    rounded = {each.name: each.num_rounded for each in result.layers}
    assert {f"{name}.weight": count for name, count in rounded.items()} == {
        name: int(np.count_nonzero(old[name] != new[name])) for name in sorted(weights)
    }


@pytest.mark.parametrize("dialect", list(Dialect))
def test_second_order_rounding_brings_the_layers_closer(images: np.ndarray, dialect: Dialect) -> None:
    """On inputs whose pixels hang together, unlike noise."""
    smooth = images.cumsum(axis=2).cumsum(axis=3) / 8
    model = network()
    quantized = quantized_from(model, smooth, dialect)
    layers = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    outputs = []
    for each in (model, *(refined(model, quantized, smooth, round_weights=each).model for each in (False, True))):
        with open_exact(with_outputs(each, layers)) as runtime:
            outputs.append(runtime.run({"input": smooth}))
    expected, nearest, rounded = outputs
    gains = [
        10 * np.log10(np.square(nearest[name] - expected[name]).sum() / np.square(rounded[name] - expected[name]).sum())
        for name in layers
    ]
    print("dB per layer:", [f"{gain:.2f}" for gain in gains])
    assert gains[0] > 0.3
    assert sum(gains) > 0.3
    assert min(gains) > -0.6, "rounding to the nearest may be lucky on four outputs"


def test_a_layer_of_many_columns_is_rounded_in_parts(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """As VGG's first dense layer is, whose Hessian fits into no memory."""
    smooth = images.cumsum(axis=2).cumsum(axis=3) / 8
    build = GraphBuilder()
    build.node("Flatten", "flat", "input")
    weight = build.random.normal(size=(128, 16)).astype(np.float32)
    build.constant("w", weight)
    build.node("MatMul", "layer", "flat", "w")
    model = build.model("layer")
    quantized = quantized_from(model, smooth)
    monkeypatch.setattr("calibration.refinement.round_layer.WIDEST", 50)
    result = refined(model, quantized, smooth, round_weights=True).model
    levels = next(v for v in constants(result).values() if v.shape == (128, 16))
    assert np.mean(levels == next(v for v in constants(quantized).values() if v.shape == (128, 16))) < 0.9
    errors = [np.square(logits(each, smooth) - logits(model, smooth)).sum() for each in (quantized, result)]
    assert errors[1] < 0.9 * errors[0]


def test_a_convolution_along_one_axis_is_corrected_but_not_rounded_again() -> None:
    images = np.random.default_rng(SEED).normal(size=(32, 2, 8, 8)).astype(np.float32)
    build = GraphBuilder()
    build.node("Reshape", "flat", "input", build.constant("shape", np.int64([0, 2, 64])))
    build.constant("w", build.random.normal(size=(4, 2, 3)).astype(np.float32))
    build.node("Conv", "conv", "flat", "w")
    model = build.model("conv")
    quantized = quantized_from(model, images)
    result = refine_on(model, quantized, [images], effort=EFFORTS[2])
    assert [each.num_rounded for each in result.layers] == [0]


def test_one_image_changes_no_bias(images: np.ndarray) -> None:
    model = network()
    quantized = quantized_from(model, images)
    result = refine_on(model, quantized, [images[:1]], effort=replace(EFFORTS[1], round_weights=False))
    assert all(each.largest_correction == 0 for each in result.layers)
    assert_array_equal(logits(result.model, images), logits(quantized, images))


def test_the_walk_can_be_followed(images: np.ndarray) -> None:
    seen = []

    def track(layers, total):
        for layer in layers:
            seen.append((layer.node.name, total))
            yield layer

    model = network()
    refine_on(model, quantized_from(model, images), [images], effort=EFFORTS[1], track=track)
    assert seen == [("a", 3), ("b", 3), ("out", 3)]


def test_models_that_differ_are_refused(images: np.ndarray) -> None:
    model = network()
    quantized = quantized_from(model, images)
    next(node for node in quantized.graph.node if node.name == "b").name = "c"
    with pytest.raises(CalibrationError, match="quantized layer 'c' is not in the float model"):
        refine(model, quantized, [images], open_runtime=open_exact, effort=EFFORTS[1])


def test_without_images_it_is_refused(images: np.ndarray) -> None:
    model = network()
    with pytest.raises(CalibrationError, match="got 0 batches"):
        refine(model, quantized_from(model, images), [], open_runtime=open_exact, effort=EFFORTS[1])
