"""output_error: by hand, against SciPy, and in batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from calibration.mixed_precision.output_error import error_json
from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.logit_meter import LogitMeter

SEED = 20261127


def logits(*, seed: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (20, 7)).astype(np.float32)


def error_of(reference: np.ndarray, candidate: np.ndarray, batch: int = 20):
    meter = LogitMeter(strict=True)
    for start in range(0, len(reference), batch):
        meter.add(reference[start : start + batch], candidate[start : start + batch])
    return meter.report()


def test_by_hand():
    found = error_of(np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 3.5]], np.float32))
    assert found.num_images == 1
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert found.agreement == 1.0


def test_kl_is_scipys():
    reference, candidate = logits(seed=SEED), logits(seed=SEED + 1)
    p, q = (np.exp(log_softmax(side.astype(np.float64), axis=1)) for side in (reference, candidate))
    found = error_of(reference, candidate)
    assert found.kl == pytest.approx(rel_entr(p, q).sum(axis=1).mean(), rel=1e-9)
    assert found.agreement == np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1))


def test_batches_do_not_matter():
    reference, candidate = logits(seed=SEED), logits(seed=SEED + 1)
    assert error_json(error_of(reference, candidate, 3)) == pytest.approx(error_json(error_of(reference, candidate)))


def test_equal_outputs_have_no_noise():
    found = error_of(logits(seed=SEED, scale=300.0), logits(seed=SEED, scale=300.0))
    assert (found.sqnr_db, found.kl, found.agreement) == (None, 0.0, 1.0)


def test_nothing_and_nan_are_refused():
    with pytest.raises(ValueError, match="no image was compared"):
        LogitMeter(strict=True).report()
    with pytest.raises(RuntimeAdapterError, match="NaN or Inf"):
        error_of(np.array([[1.0, np.nan]], np.float32), np.ones((1, 2), np.float32))
