"""collect_channel_statistics: exact maxima and an even sample per channel, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_array_equal

from calibration.channel_statistics import SAMPLES_PER_CHANNEL, collect_channel_statistics
from calibration.sampled_positions import sampled_positions
from runtimes.ort import OrtRuntime

SEED = 20261126


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(20, 2, 8, 8)).astype(np.float32)


def model():
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("conv", "input", 3))
    build.gemm("out", "relu", 2)
    return build.model("out")


@pytest.mark.parametrize("cuts", [[], [7, 8], [1, 2, 19]])
def test_maxima_are_exact_and_do_not_depend_on_the_batches(images: np.ndarray, cuts: list[int]) -> None:
    names = ("input", "conv", "relu", "out.flat")
    found = collect_channel_statistics(model(), names, np.split(images, cuts), open_runtime=OrtRuntime)
    with OrtRuntime(_with_all(names)) as runtime:
        values = {"input": images, **runtime.run({"input": images})}
    assert tuple(found) == names
    for name in names:
        others = tuple(axis for axis in range(values[name].ndim) if axis != 1)
        assert_array_equal(found[name].max_abs, np.abs(values[name]).max(axis=others))
        for channel, kept in enumerate(found[name].values):
            assert np.isin(kept, values[name][:, channel]).all()
        per_channel = found[name].values.shape[1]
        assert per_channel == 20 if name == "out.flat" else 20 * 25 <= per_channel <= 20 * 64


def _with_all(names):
    from exporter.graph import with_outputs

    return with_outputs(model(), [name for name in names if name != "input"])


def test_of_one_image_all_values_are_kept_where_there_are_few(images: np.ndarray) -> None:
    found = collect_channel_statistics(model(), ["input"], [images[:1]], open_runtime=OrtRuntime)["input"]
    assert_array_equal(found.values, images[0].reshape(2, 64))
    assert len(found.values[0]) <= SAMPLES_PER_CHANNEL


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (14, 14), (56, 56), (112, 112), (96, 64)])
@pytest.mark.parametrize("wanted", [1, 8, 16, 128])
def test_sampled_positions_are_about_as_many_as_wanted_and_visit_all_columns(
    size: tuple[int, int], wanted: int
) -> None:
    height, width = size
    picked = np.arange(height * width)[sampled_positions(height * width, wanted)]
    assert min(wanted, height * width) / 2 <= len(picked) <= 3 * wanted
    if len(picked) >= 2 * width:
        assert set(picked % width) == set(range(width))
        assert set(picked // width) == set(range(height)) or len(picked) < 2 * height
