"""Probes: what comes out of a probed model against NumPy on the whole tensors, in every opset and batching."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from calibration.observers.observe_batches import SAMPLES_PER_IMAGE
from calibration.observers.probes import FIRST_IMAGE, add_probes, observe, sample_stride
from exporter.graph.onnx_graph import with_outputs
from runtimes.ort.adapter import OrtRuntime

RESNET_SHAPES = [
    (3, 224, 224),
    (64, 112, 112),
    (64, 56, 56),
    (256, 56, 56),  # 49 times the sample: a stride of 49 would see every 7th column only
    (512, 28, 28),
    (1024, 14, 14),
    (2048, 7, 7),
    (3, 299, 299),
    (16, 96, 96),  # 9 times the sample, 96 divisible by 3
]


@pytest.mark.parametrize("shape", RESNET_SHAPES)
def test_sample_visits_all_channels_rows_and_columns_alike(shape):
    stride = sample_stride(shape, SAMPLES_PER_IMAGE)
    size = math.prod(shape)
    assert stride % 2 == 1
    assert math.gcd(stride, size) == 1
    for first_image in (0, 1, 7):
        sample = np.arange(-first_image * size % stride, size, stride)
        assert SAMPLES_PER_IMAGE * 0.6 < len(sample) < SAMPLES_PER_IMAGE * 2
        for axis, places in enumerate(np.unravel_index(sample, shape)):
            counts = np.bincount(places, minlength=shape[axis])
            assert counts.min() > 0.5 * counts.mean(), f"axis {axis}"
            assert counts.max() < 1.5 * counts.mean(), f"axis {axis}"


@pytest.mark.parametrize("shape", RESNET_SHAPES)
def test_as_many_images_as_the_stride_visit_every_place_once(shape):
    stride, size = sample_stride(shape, SAMPLES_PER_IMAGE), math.prod(shape)
    starts = sorted(-image * size % stride for image in range(stride))
    assert starts == list(range(stride))


@pytest.mark.parametrize("shape", [(2048,), (16, 32, 32), (3, 32, 32)])
def test_small_tensors_are_taken_whole(shape):
    assert sample_stride(shape, SAMPLES_PER_IMAGE) == 1


def two_tensors(opset: int) -> onnx.ModelProto:
    """`plain` can be negative, `relu` cannot; 2 x 40 x 40 values each."""
    graph = GraphBuilder(channels=2, size=40, seed=3)
    graph.node("Relu", "relu", graph.conv("plain", "input", 2))
    return graph.model("relu", opset=opset)


def observations(runtime, probed, images, sizes):
    first, found = 0, []
    for size in sizes:
        batch = images[first : first + size]
        outputs = {"input": batch, **runtime({"input": batch, FIRST_IMAGE: np.array([first], np.int64)})}
        found.append({probe.tensor: observe(probe, outputs, first) for probe in probed.probes})
        first += size
    return found


@pytest.mark.parametrize("opset", [13, 17, 19, 20])
@pytest.mark.parametrize("sizes", [(7,), (3, 1, 3)])
def test_equal_to_numpy_on_the_whole_tensor(opset, sizes):
    """In ONNX Runtime and in ONNX's reference evaluator, in the opsets before and after axes became an input."""
    model = two_tensors(opset)
    images = np.random.default_rng(5).normal(size=(7, 2, 40, 40)).astype(np.float32)
    probed = add_probes(model, ("input", "plain", "relu"), samples_per_image=300)
    onnx.checker.check_model(probed.model, full_check=True)
    assert probed.needs_first_image
    assert [(probe.is_nonnegative, probe.shape) for probe in probed.probes] == [
        (False, None),
        (False, (2, 40, 40)),
        (True, (2, 40, 40)),
    ]
    relu, plain = ReferenceEvaluator(with_outputs(model, ["plain"])).run(None, {"input": images})
    whole = {"input": images, "plain": plain, "relu": relu}

    reference = ReferenceEvaluator(probed.model)
    names = [info.name for info in probed.model.graph.output]
    with OrtRuntime(probed.model) as session:
        for run in (session.run, lambda inputs: dict(zip(names, reference.run(None, inputs), strict=True))):
            found = observations(run, probed, images, sizes)
            for name, array in whole.items():
                seen = [batch[name] for batch in found]
                maximum = np.concatenate([each.maximum for each in seen])
                np.testing.assert_allclose(maximum, array.max(axis=(2, 3)), rtol=1e-5)
                expected = np.zeros((7, 2)) if name == "relu" else array.min(axis=(2, 3))
                np.testing.assert_allclose(np.concatenate([each.minimum for each in seen]), expected, rtol=1e-5)
                stride = sample_stride(array.shape[1:], 300)
                assert stride > 1
                sample = np.concatenate([each.sample for each in seen])
                np.testing.assert_allclose(sample, array.reshape(-1)[::stride], rtol=1e-4, atol=1e-5)
                assert all(each.is_finite for each in seen)


def test_ends_part_the_sample_into_images():
    model = two_tensors(20)
    images = np.random.default_rng(6).normal(size=(5, 2, 40, 40)).astype(np.float32)
    probed = add_probes(model, ("input",), samples_per_image=300)
    (seen,) = observations(lambda inputs: {}, probed, images, (5,))
    stride = sample_stride((2, 40, 40), 300)
    start = 0
    for place, end in enumerate(seen["input"].ends):
        expected = [index for index in range(place * 3200, (place + 1) * 3200) if index % stride == 0]
        assert np.array_equal(seen["input"].sample[start:end], images.reshape(-1)[expected])
        start = end
    assert start == len(seen["input"].sample)


def test_the_model_given_is_unchanged_and_its_outputs_stay():
    model = two_tensors(20)
    before = model.SerializeToString(deterministic=True)
    probed = add_probes(model, ("plain", "relu"), samples_per_image=300)
    assert model.SerializeToString(deterministic=True) == before
    assert probed.model.graph.output[0].name == "relu"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda graph: graph.node("Relu", "x", "input"), True),
        (lambda graph: graph.node("MaxPool", "x", graph.node("Relu", "r", "input"), kernel_shape=[2, 2]), True),
        (lambda graph: graph.node("MaxPool", "x", "input", kernel_shape=[2, 2]), False),
        (lambda graph: graph.node("Clip", "x", "input", graph.constant("low", np.float32(0))), True),
        (lambda graph: graph.node("Clip", "x", "input", graph.constant("low", np.float32(-1))), False),
        (lambda graph: graph.node("Clip", "x", "input"), False),
        (lambda graph: graph.node("Neg", "x", graph.node("Relu", "r", "input")), False),
    ],
)
def test_the_sign_is_read_from_the_graph(build, expected):
    graph = GraphBuilder()
    model = graph.model(build(graph))
    assert add_probes(model, ("x",), samples_per_image=16).probes[0].is_nonnegative is expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1700, 3199])
def test_one_bad_value_is_found_wherever_it_is(bad, place):
    graph = GraphBuilder(channels=2, size=40)
    model = graph.model(graph.node("Identity", "same", "input"))
    probed = add_probes(model, ("same",), samples_per_image=300)
    images = np.zeros((1, 2, 40, 40), np.float32)
    images.reshape(-1)[place] = bad
    with OrtRuntime(probed.model) as session:
        (seen,) = observations(session.run, probed, images, (1,))
    assert not seen["same"].is_finite
