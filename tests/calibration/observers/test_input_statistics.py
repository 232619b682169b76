"""Figures against NumPy, whatever the batches and the shape."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from calibration.observers.input_statistics import InputCollector, InputStatistics
from calibration.observers.judge_input import judge_input
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, preprocess

IMAGENET = Preprocessing((96, 96), None, Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)


def statistics_of(images, batch=7):
    collector = InputCollector()
    images = np.asarray(images, np.float32)
    for first in range(0, len(images), batch):
        collector.add(images[first : first + batch])
    return collector.statistics()


@pytest.fixture(scope="module")
def prepared(photo_folder):
    return np.stack([preprocess(IMAGENET, Image.open(path).convert("RGB")) for path in sorted(photo_folder.iterdir())])


def test_equal_to_numpy(prepared):
    seen = statistics_of(prepared)
    assert seen.num_images == 48
    assert seen.low == tuple(prepared.min(axis=(0, 2, 3)).astype(float))
    assert seen.high == tuple(prepared.max(axis=(0, 2, 3)).astype(float))
    assert seen.mean == pytest.approx(prepared.mean(axis=(0, 2, 3), dtype=np.float64), rel=1e-9)
    assert seen.std == pytest.approx(prepared.std(axis=(0, 2, 3), dtype=np.float64), rel=1e-9)
    halves = np.concatenate([prepared[:, :, :48].mean(axis=(2, 3)), prepared[:, :, 48:].mean(axis=(2, 3))], axis=1)
    assert seen.half_mean == pytest.approx(halves.mean(axis=0), abs=1e-5)
    assert np.array(seen.half_covariance) == pytest.approx(np.cov(halves.T, bias=True), abs=1e-4)


def test_autocorrelation_is_the_correlation_coefficient(prepared):
    one = prepared[:1, :1]
    across = np.corrcoef(one[..., 1:].ravel(), one[..., :-1].ravel())[0, 1]
    down = np.corrcoef(one[..., 1:, :].ravel(), one[..., :-1, :].ravel())[0, 1]
    assert statistics_of(one).autocorrelation[1] == pytest.approx((across + down) / 2, abs=0.01)


@pytest.mark.parametrize("batch", [1, 5, 48])
def test_no_figure_depends_on_the_batches(prepared, batch):
    expected, seen = (json.dumps(statistics_of(prepared, size).to_json()) for size in (7, batch))
    left, right = json.loads(expected), json.loads(seen)
    for name, value in left.items():
        assert np.array(right[name]) == pytest.approx(np.array(value), rel=1e-6, abs=1e-9), name


def test_json_there_and_back(prepared):
    seen = statistics_of(prepared)
    assert InputStatistics.from_json(json.loads(json.dumps(seen.to_json()))) == seen
    constant = statistics_of(np.zeros((2, 3, 8, 8)))
    assert constant.autocorrelation is None
    assert InputStatistics.from_json(json.loads(json.dumps(constant.to_json(), allow_nan=False))) == constant


@pytest.mark.parametrize("shape", [(2, 1, 5, 3), (1, 3, 1, 1), (3, 4, 33, 20)])
def test_images_of_any_shape(shape):
    images = np.random.default_rng(8).normal(size=shape)
    assert statistics_of(images).num_images == shape[0]
    assert all(isinstance(str(warning), str) for warning in judge_input(statistics_of(images), IMAGENET))


@pytest.mark.parametrize("factor", [2.0**100, 2.0**119, 2.0**-100])
def test_images_of_any_size_are_compared_without_overflow(factor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = np.random.default_rng(3).normal(size=(12, 3, 16, 16)).astype(np.float32)
        images[7] = images[2]
        found = statistics_of(images * np.float32(factor))
    assert found.num_copies == (1 if factor > 1 else 11)  # below 1e-6 apart all are the same
    np.testing.assert_allclose(found.std, images.astype(np.float64).std(axis=(0, 2, 3)) * factor, rtol=1e-6)
