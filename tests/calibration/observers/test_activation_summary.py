"""What calibration.json keeps of a histogram."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.methods.histogram import Histogram
from calibration.observers.activation_summary import (
    NUM_COARSE_BINS,
    ActivationSummary,
    CoarseHistogram,
    coarse_histogram,
)


def test_it_is_numpy_s_histogram():
    values = np.random.default_rng(5).exponential(1.3, 10_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    coarse = coarse_histogram(histogram)
    edges = np.arange(len(coarse.counts) + 1) * coarse.bin_width
    assert NUM_COARSE_BINS / 2 <= len(coarse.counts) <= NUM_COARSE_BINS
    assert edges[-2] <= values.max() < edges[-1]
    assert coarse.counts == tuple(np.histogram(values, edges)[0])


@pytest.mark.parametrize("values", [np.zeros(7, np.float32), np.empty(0, np.float32)])
def test_nothing_but_zeros(values):
    histogram = Histogram()
    histogram.add(values)
    assert sum(coarse_histogram(histogram).counts) == len(values)


def test_json_and_older_tables():
    kept = CoarseHistogram(0.125, (90, 0, 7))
    assert CoarseHistogram.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    assert ActivationSummary(0.0, 1.0, 0.5, 3, (), 0.2).histogram is None
