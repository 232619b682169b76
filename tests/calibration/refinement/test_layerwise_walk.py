"""LayerwiseWalk: its pieces compute what the whole model computes, and keep no more than they need."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import numpy as np
import onnx
import pytest
from graph_builder import export_random, make_resnet8, three_convolutions
from numpy.testing import assert_allclose, assert_array_equal
from onnx import ModelProto, numpy_helper

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from calibration.refinement import layerwise_walk
from calibration.refinement.layerwise_walk import Layer, LayerwiseWalk, Rounded, quantized_layers
from exporter.graph.onnx_graph import with_outputs
from runtimes.ort.adapter import OrtRuntime

SEED = 20261127
open_exact = partial(OrtRuntime, exact_qdq=True)


def quantized_from(model: ModelProto, images: np.ndarray, dialect: Dialect = Dialect.TENSORRT) -> ModelProto:
    return insert_qdq(model, calibrate(model, [images], open_runtime=OrtRuntime, dialect=dialect)).model


def bottleneck():
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=16)


@pytest.fixture(scope="module", params=["basic", "bottleneck"])
def network(request) -> ModelProto:
    import torch

    torch.manual_seed(SEED)
    return make_resnet8() if request.param == "basic" else export_random(bottleneck(), size=32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(7, 3, 32, 32)).astype(np.float32)


def walk_of(model: ModelProto, images: list[np.ndarray], **options) -> LayerwiseWalk:
    return LayerwiseWalk(model, images, open_runtime=open_exact, **options)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_layer_is_as_in_the_whole_model(network, images, dialect, monkeypatch) -> None:
    """But for the 16 bits of float values, which let some fall on the level beside theirs, and so on."""
    monkeypatch.setattr(layerwise_walk, "_rounded", lambda array: array)
    quantized = quantized_from(network, images, dialect)
    batches = [images[:3], images[3:4], images[4:]]
    walk = walk_of(quantized, batches)
    layers = quantized_layers(quantized)
    assert len(walk) == len(layers) == sum(node.op_type in ("Conv", "Gemm") for node in network.graph.node)
    nodes = {node.name: node for node in quantized.graph.node}
    taps = [nodes[name].output[0] for name in layers]
    reads = [nodes[name].input[0] for name in layers]
    with open_exact(with_outputs(quantized, dict.fromkeys([*taps, *reads]))) as runtime:
        expected = runtime.run({"input": images})
    walked = []
    for layer in walk:
        walked.append(layer.node.name)
        assert [batch.dtype.kind for batch in layer.stored] == ["i" if dialect is Dialect.TENSORRT else "u"] * 3
        outputs, read = walk.outputs(layer), list(layer.batches())
        assert [len(batch) for batch in outputs] == [3, 1, 3]
        for got, name in ((outputs, layer.node.output[0]), (read, layer.node.input[0])):
            # The pieces' graphs are optimized alone: sums differ in float32's last bits, and a value that lies
            # between two levels may fall on either.
            whole = expected[name]
            step = np.abs(whole).max() / 64
            assert_allclose(np.concatenate(got), whole, atol=step, rtol=0)
            assert np.mean(np.abs(np.concatenate(got) - whole) > 1e-4 * np.abs(whole).max()) < 0.02
        assert_array_equal(np.stack([image() for image in layer.images()]), np.concatenate(read))
    assert tuple(walked) == layers


def test_a_float_model_is_kept_in_16_bits(network, images) -> None:
    names = [node.name for node in network.graph.node if node.op_type in ("Conv", "Gemm")]
    nodes = {node.name: node for node in network.graph.node}
    read = dict.fromkeys(nodes[name].input[0] for name in names[1:])
    with open_exact(with_outputs(network, read)) as runtime:
        expected = runtime.run({"input": images}) | {"input": images}
    for place, layer in enumerate(walk_of(network, [images], layers=names)):
        whole = expected[layer.node.input[0]]
        assert isinstance(layer.stored[0], Rounded) == bool(place), "the images themselves are not copied"
        assert_allclose(np.concatenate(list(layer.batches())), whole, atol=1e-3 * np.abs(whole).max())


@pytest.mark.parametrize("values", [[[-3.0, 0.0, 1e-9, 2.0]], [[0.0, 0.0]], [[1e30, -1e30]], [[1e-44, 0.0]], [[3e38]]])
def test_rounded_values_are_off_by_half_a_step(values: list[list[float]]) -> None:
    exact = np.float32(values)
    rounded = Rounded.of(exact)
    assert len(rounded) == 1
    assert rounded.multiples.dtype == np.int16
    assert_allclose(rounded.values(), exact, atol=0.51 * float(rounded.step), rtol=1e-6)
    assert float(rounded.step) <= max(np.abs(exact).max() / 32766, 1.2e-38)


def test_an_edit_reaches_the_layers_behind_it(network, images) -> None:
    quantized = quantized_from(network, images)
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    seen = []
    for layer in walk_of(quantized, [images]):
        if not seen:
            bias = tensors[layer.node.input[2]]
            far_below = np.full_like(numpy_helper.to_array(bias), -1e6)
            bias.CopyFrom(numpy_helper.from_array(far_below, bias.name))
        seen.append(next(layer.batches()))
    assert not seen[1].any(), "behind a ReLU nothing is left of what lies far below zero"


@pytest.mark.parametrize("dialect", [Dialect.TENSORRT, None], ids=["quantized", "float"])
def test_images_join_where_there_is_room_with_every_edit_before(network, images, dialect, monkeypatch) -> None:
    monkeypatch.setattr(layerwise_walk, "_rounded", lambda array: array)
    layers = [node.name for node in network.graph.node if node.op_type in ("Conv", "Gemm")]
    batches = [images[:2], images[2:3], images[3:6], images[6:]]
    counts = {name: (2, 2, 5, 6, 7)[min(place // 2, 4)] for place, name in enumerate(layers)}
    walks = []
    for given in (counts, None):
        model = (
            quantized_from(network, images, dialect)
            if dialect
            else onnx.ModelProto.FromString(network.SerializeToString())
        )
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        seen = []
        for layer in walk_of(model, batches, layers=layers, counts=given):
            seen.append(np.concatenate(list(layer.batches())))
            bias = tensors[layer.node.input[2]]
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        walks.append(seen)
    expected = [{2: 2, 5: 3, 6: 6, 7: 7}[counts[name]] for name in layers]  # whole batches only
    assert [len(read) for read in walks[0]] == expected
    assert [len(read) for read in walks[1]] == [7] * len(layers)
    for part, whole in zip(*walks, strict=True):
        largest = np.abs(whole).max()
        off = np.abs(part - whole[: len(part)])
        assert off.max() <= largest / 64, "a level at most, where a sum lies between two"
        assert np.mean(off > 1e-4 * largest) < 0.02


def test_the_first_batch_takes_part_whatever_its_size(images) -> None:
    model = three_convolutions()
    walk = walk_of(model, [np.ones((5, 2, 8, 8), np.float32)] * 3, layers=["a", "c"], counts={"a": 1, "c": 14})
    assert [sum(map(len, layer.stored)) for layer in walk] == [5, 10]


def test_outputs_are_those_of_the_constants_as_they_are(network, images) -> None:
    quantized = quantized_from(network, images)
    walk = walk_of(quantized, [images[:4], images[4:]])
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    layer = next(iter(walk))
    first = walk.outputs(layer)
    bias = tensors[layer.node.input[2]]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1.5), bias.name))
    for again, before in zip(walk.outputs(layer), first, strict=True):
        assert_allclose(again, before + 1.5, atol=1e-4 * np.abs(before).max() + 1e-5)


def test_a_walk_is_gone_once(network, images) -> None:
    walk = walk_of(quantized_from(network, images), [images])
    next(iter(walk))
    with pytest.raises(CalibrationError, match="gone already"):
        next(iter(walk))


def test_nothing_that_is_not_read_again_stays_in_memory() -> None:
    images = np.zeros((2, 2, 8, 8), np.float32)
    model = three_convolutions()
    earlier: list[weakref.ref] = []
    for layer in walk_of(quantized_from(model, images + 1), [images]):
        gc.collect()
        left = [array for array in earlier if array() is not None]
        assert not left, f"{len(left)} arrays of layers before {layer.node.name} are alive"
        earlier.extend(weakref.ref(batch) for batch in layer.stored)
    assert len(earlier) == 3


def test_a_layer_that_is_kept_keeps_no_tensors() -> None:
    images = np.ones((2, 2, 8, 8), np.float32)
    model = three_convolutions()
    layers: list[Layer] = list(walk_of(quantized_from(model, images), [images]))
    assert [layer.node.name for layer in layers] == ["a", "b", "c"]
    assert not any(layer.stored for layer in layers)


class Watched(OrtRuntime):
    """Counts how many are open; fails at run number `fail_at`."""

    opened = 0
    runs = 0
    fail_at = 10**9

    def __init__(self, model) -> None:
        super().__init__(model, exact_qdq=True)
        Watched.opened += 1

    def run(self, inputs):
        Watched.runs += 1
        if Watched.runs > Watched.fail_at:
            raise ValueError("stop here")
        return super().run(inputs)

    def close(self) -> None:
        Watched.opened -= 1
        super().close()


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_runtimes_are_closed_when_one_fails(monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    images = np.ones((2, 2, 8, 8), np.float32)
    model = three_convolutions()
    quantized = quantized_from(model, images)
    for name, value in (("opened", 0), ("runs", 0), ("fail_at", fail_at)):
        monkeypatch.setattr(Watched, name, value)
    walk = LayerwiseWalk(quantized, [images], open_runtime=Watched)
    with pytest.raises(ValueError, match="stop here"):
        list(walk)
    assert Watched.runs == fail_at + 1
    assert Watched.opened == 0


def test_no_images_and_no_quantized_layer_are_refused() -> None:
    model = three_convolutions()
    images = np.ones((2, 2, 8, 8), np.float32)
    with pytest.raises(CalibrationError, match="got 0 batches and 3 quantized layers"):
        walk_of(quantized_from(model, images), [])
    with pytest.raises(CalibrationError, match="got 1 batches and 0 quantized layers"):
        walk_of(model, [images])


def test_two_inputs_are_refused() -> None:
    model = three_convolutions()
    images = np.ones((2, 2, 8, 8), np.float32)
    quantized = quantized_from(model, images)
    extra = onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [1])
    quantized.graph.input.append(extra)
    with pytest.raises(CalibrationError, match="a model of 2 inputs, expected 1"):
        walk_of(quantized, [images])
