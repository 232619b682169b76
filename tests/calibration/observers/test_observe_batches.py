"""What is seen of a batch: means against whole outputs, and scaled observations against the scaled model's."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import make_resnet8
from numpy.testing import assert_allclose, assert_array_equal
from onnx import ModelProto

from calibration.methods.builtin_methods import Max
from calibration.methods.dialect import Dialect
from calibration.observers.observe_batches import observe_batches
from calibration.observers.tensor_bytes import made_bytes_per_image
from calibration.placement.place import place
from calibration.ranges.collect_ranges import calibrate, table_of, tensors_to_observe
from calibration.refinement.channel_groups import find_channel_groups
from calibration.refinement.cross_layer_equalization import scale_channels
from runtimes.ort.adapter import OrtRuntime

SEED = 20261122


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(11, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> ModelProto:
    return make_resnet8(64)  # so large that tensors are sampled, not taken whole


def cut(images: np.ndarray) -> list[np.ndarray]:
    return [images[:4], images[4:5], images[5:]]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_what_was_seen_can_be_scaled_afterwards(network, images, dialect) -> None:
    """Against the model whose channels were scaled: extremes, samples, and the table made of them."""
    random = np.random.default_rng(SEED)
    factors = {
        group: 2.0 ** random.integers(-3, 6, group.num_channels).astype(np.float64)
        for group in find_channel_groups(network)
    }
    scaled = scale_channels(network, factors).model
    tensors = tensors_to_observe(place(network, dialect))
    of_tensors = {name: values for group, values in factors.items() for name in group.tensors}
    assert of_tensors.keys() & set(tensors)
    found = [
        batch.scaled(of_tensors) for batch in observe_batches(network, tensors, cut(images), open_runtime=OrtRuntime)
    ]
    expected = list(observe_batches(scaled, tensors, cut(images), open_runtime=OrtRuntime))
    for one, other in zip(found, expected, strict=True):
        for name in tensors:
            ours, theirs = one.observations[name], other.observations[name]
            step = 1e-5 * theirs.largest().max()
            assert_array_equal(ours.ends, theirs.ends)
            for part in ("maximum", "minimum", "sample"):
                assert_allclose(getattr(ours, part), getattr(theirs, part), atol=step, rtol=0)
    ours = table_of(scaled, found, method=Max(), dialect=dialect)
    theirs = calibrate(scaled, [images], open_runtime=OrtRuntime, method=Max(), dialect=dialect)
    assert ours.num_images == theirs.num_images == 11
    for name, kept in theirs.ranges.items():
        assert ours.ranges[name].amax == pytest.approx(kept.amax, rel=1e-5)


def test_without_images_nothing_is_opened(network) -> None:
    def refuse(model):
        raise AssertionError("opened")

    assert list(observe_batches(network, (), iter(()), open_runtime=refuse)) == []


def test_large_batches_are_run_in_pieces(network, images, monkeypatch) -> None:
    """About half of the tensors of an image stay alive."""
    tensors = tensors_to_observe(place(network, Dialect.TENSORRT))
    room = 3 * made_bytes_per_image(network) // 2
    monkeypatch.setattr("calibration.observers.observe_batches.MAX_RUN_BYTES", room)
    pieces = list(observe_batches(network, tensors, [images[:7], images[7:]], open_runtime=OrtRuntime))
    assert [len(piece.images) for piece in pieces] == [3, 3, 1, 3, 1]
    monkeypatch.undo()
    (whole,) = observe_batches(network, tensors, [images], open_runtime=OrtRuntime)
    for name in tensors:
        sample = np.concatenate([piece.observations[name].sample for piece in pieces])
        assert_allclose(sample, whole.observations[name].sample, atol=1e-5)


def test_where_extremes_decide_fewer_values_are_sampled(network, images) -> None:
    tensors = tensors_to_observe(place(network, Dialect.TENSORRT))
    few, many = (
        next(observe_batches(network, tensors, [images], open_runtime=OrtRuntime, method=method))
        for method in (Max(), None)
    )
    for name in tensors:
        assert_array_equal(few.observations[name].maximum, many.observations[name].maximum)
    assert any(len(few.observations[name].sample) < len(many.observations[name].sample) for name in tensors)
