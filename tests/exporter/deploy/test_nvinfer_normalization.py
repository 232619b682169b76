"""nvinfer's one factor against training's normalization."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.deploy.nvinfer_normalization import MAX_DEVIATION, NOTHING, apply_nvinfer, nvinfer_normalization
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, normalize

LEVELS = np.arange(256, dtype=np.uint8)[:, np.newaxis].repeat(3, axis=1)[:, np.newaxis, np.newaxis]


def preprocessing(mean, std) -> Preprocessing:
    return Preprocessing(256, (224, 224), Interpolation.BILINEAR, mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "scale", "offsets"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 127.5, (127.5, 127.5, 127.5)),  # 2 * x / 255 - 1
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1 / 255, (0.0, 0.0, 0.0)),
        (IMAGENET_MEAN, (0.226, 0.226, 0.226), 1 / 57.63, (123.675, 116.28, 103.53)),
    ],
)
def test_one_std_is_reproduced(mean, std, scale, offsets):
    found = nvinfer_normalization(preprocessing(mean, std))
    assert found.scale_factor == pytest.approx(scale, rel=1e-6)
    assert found.offsets == pytest.approx(offsets, rel=1e-6)
    assert found.is_exact
    assert found.max_deviation < MAX_DEVIATION / 4


def test_imagenet_is_not_to_be_had():
    """The published mean and std: the widest pair is R 0.229 and G 0.224."""
    found = nvinfer_normalization(preprocessing(IMAGENET_MEAN, IMAGENET_STD))
    assert not found.is_exact
    assert 0.02 < found.max_deviation < 0.03


@pytest.mark.parametrize("seed", range(5))
def test_no_other_factor_is_better(seed):
    """The formula's factor against a search over 4001 factors, each counted out over all levels."""
    random = np.random.default_rng(seed)
    mean, std = tuple(random.uniform(0.1, 0.9, 3)), tuple(random.uniform(0.1, 0.5, 3))
    found = nvinfer_normalization(preprocessing(mean, std))
    exact = normalize(preprocessing(mean, std), LEVELS)[:, :, 0, 0].astype(np.float64)
    centered = np.arange(256)[:, np.newaxis] - 255 * np.array(mean)
    factors = np.linspace(1 / max(std), 1 / min(std), 4001) / 255
    deviations = [np.abs(factor * centered - exact).max() for factor in factors]
    assert found.max_deviation <= min(deviations) + 1e-5
    assert found.max_deviation > 0.9 * min(deviations)


def test_the_deviation_told_is_the_one_there():
    settings = preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    found = nvinfer_normalization(settings)
    got = apply_nvinfer(found, LEVELS)
    assert got.dtype == np.float32
    assert np.abs(normalize(settings, LEVELS) - got).max() == pytest.approx(found.max_deviation, rel=1e-6)


def test_nothing_hands_the_levels_through():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(apply_nvinfer(NOTHING, pixels), pixels.transpose(0, 3, 1, 2).astype(np.float32))
