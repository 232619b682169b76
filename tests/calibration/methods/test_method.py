from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from calibration.methods.amax import entropy_amax, max_amax, mse_amax, percentile_amax
from calibration.methods.builtin_methods import CANDIDATES, Auto, Entropy, Max, MeanSquaredError, Percentile
from calibration.methods.histogram import Histogram
from calibration.methods.method import amax, describe, method_from_name

SEED = 20260103

NAMES = {
    "max": Max(),
    "percentile": Percentile(99.99),
    "entropy": Entropy(2048),
    "mse": MeanSquaredError(),
    "auto": Auto(),
}


@pytest.fixture
def histogram():
    made = Histogram()
    made.add(np.random.default_rng(SEED).laplace(size=20_000).astype(np.float32))
    return made


@pytest.mark.parametrize(("name", "method"), NAMES.items())
def test_names(name, method):
    assert method_from_name(name) == method


@pytest.mark.parametrize("name", ["minmax", "MSE", ""])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match=f"got '{name}', expected one of max, percentile, entropy, mse, auto"):
        method_from_name(name)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Max(), max_amax),
        (Percentile(99.0), lambda histogram: percentile_amax(histogram, 99.0)),
        (Entropy(512), lambda histogram: entropy_amax(histogram, num_bins=512)),
        (MeanSquaredError(), mse_amax),
        (Auto(), mse_amax),
    ],
)
def test_amax_dispatches(histogram, method, expected):
    assert amax(method, histogram) == expected(histogram)


def test_the_four_methods_differ(histogram):
    assert len({amax(method, histogram) for method in CANDIDATES}) == 4


def test_a_name_is_not_a_method(histogram):
    with pytest.raises(TypeError, match="got 'max', expected a calibration method"):
        amax("max", histogram)


@pytest.mark.parametrize("percentile", [0, -5, 101])
def test_percentile_is_checked(percentile):
    with pytest.raises(ValueError, match=f"percentile: got {percentile}, expected"):
        Percentile(percentile)


def test_entropy_bins_are_checked():
    with pytest.raises(ValueError, match="num_bins: got 127, expected at least 128"):
        Entropy(127)


def test_methods_are_values():
    assert Percentile(99.9) == Percentile(99.9) != Percentile(99.99)
    assert len({Max(), Max(), Entropy(), Entropy(512)}) == 3
    with pytest.raises(FrozenInstanceError):
        Percentile().percentile = 1.0


def test_describe_survives_json():
    descriptions = [json.loads(json.dumps(describe(method))) for method in NAMES.values()]
    assert descriptions == [
        {"name": "max"},
        {"name": "percentile", "percentile": 99.99},
        {"name": "entropy", "num_bins": 2048},
        {"name": "mse"},
        {"name": "auto"},
    ]
