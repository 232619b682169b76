"""Every gate passes, fails, and says when it cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from runtimes.metrics.logit_comparison import LabelledResult
from runtimes.verification import Gate, LogitMeter, Verdict, judge
from runtimes.verification.gates import DEFAULT_GATES, METRICS, overall


def comparison(num_images=1000, num_flips=0, losses=0, gains=0, *, labelled=True):
    """A comparison with that many answers flipped; figures that do not matter are what small noise gives."""
    reference = np.zeros((num_images, 4))
    reference[:, 0] = 8.0
    candidate = reference + 0.05
    candidate[:num_flips, 1] = 9.0
    meter = LogitMeter(4)
    meter.add(reference, candidate, names=[str(place) for place in range(num_images)])
    result = LabelledResult((0.9, 0.9), (1.0, 1.0), losses, gains, num_images) if labelled else None
    return replace(meter.report(), labelled=result)


def verdict(found, name, threshold, *, on="val", asked=False):
    (result,) = judge(found, [Gate(name, threshold, asked)], on=on)
    assert result.sentence
    assert result.to_json()["verdict"] == result.verdict.value
    return result.verdict


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"agreement", "top1_drop_pp"}))
def test_a_metric_passes_at_its_value_and_fails_beyond_it(name):
    found = comparison(num_flips=10)
    metric = METRICS[name]
    value = getattr(found, name)
    step = 1e-3 * max(1.0, abs(value))
    assert verdict(found, name, value) is Verdict.PASS
    beyond = value - step if metric.largest else value + step
    if metric.allowed[0] <= beyond <= metric.allowed[1]:
        assert verdict(found, name, beyond) is Verdict.FAIL


@pytest.mark.parametrize(
    ("num_images", "num_flips", "expected"),
    [
        (1000, 0, Verdict.PASS),
        (1000, 100, Verdict.FAIL),
        (30, 0, Verdict.INCONCLUSIVE),
        (1000, 50, Verdict.INCONCLUSIVE),
    ],
)
def test_agreement_needs_enough_images(num_images, num_flips, expected):
    found = comparison(num_images, num_flips)
    assert verdict(found, "agreement", 0.95) is expected


@pytest.mark.parametrize("num_images", [51, 52])
def test_the_number_of_images_that_a_message_asks_for_is_right(num_images):
    (result,) = judge(comparison(num_images), [Gate("agreement", 0.95)], on="val")
    assert (result.verdict is Verdict.PASS) == (num_images == 52)
    assert ("takes 52 images" in result.sentence) == (num_images == 51)


def test_agreement_is_judged_by_the_one_sided_wilson_bound():
    (result,) = judge(comparison(400, 12), [Gate("agreement", 0.9)], on="val")
    expected = stats.binomtest(388, 400).proportion_ci(0.90, method="wilson")
    assert result.interval == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("num_images", "losses", "gains", "expected"),
    [
        (1000, 0, 0, Verdict.PASS),
        (1000, 40, 2, Verdict.FAIL),
        (200, 0, 0, Verdict.INCONCLUSIVE),
        (1000, 12, 4, Verdict.INCONCLUSIVE),
        (1000, 0, 30, Verdict.PASS),
    ],
)
def test_top1_drop(num_images, losses, gains, expected):
    assert verdict(comparison(num_images, 0, losses, gains), "top1_drop_pp", 1.0) is expected


def test_a_threshold_at_its_limit_is_about_these_images():
    assert verdict(comparison(10), "agreement", 1.0) is Verdict.PASS
    assert verdict(comparison(1000, 1), "agreement", 1.0) is Verdict.FAIL
    assert verdict(comparison(10), "top1_drop_pp", 0.0) is Verdict.PASS
    assert verdict(comparison(1000, 0, 1, 0), "top1_drop_pp", 0.0) is Verdict.FAIL


def test_a_default_gate_that_cannot_be_asked_is_skipped_one_that_was_asked_for_is_not():
    few, unlabelled = comparison(16), comparison(1000, labelled=False)
    assert verdict(few, "agreement", 0.95, on="golden") is Verdict.SKIPPED
    assert verdict(few, "agreement", 0.95, on="golden", asked=True) is Verdict.INCONCLUSIVE
    assert verdict(comparison(16, 12), "agreement", 0.95, on="golden") is Verdict.FAIL
    assert verdict(unlabelled, "top1_drop_pp", 1.0) is Verdict.SKIPPED
    assert verdict(unlabelled, "top1_drop_pp", 1.0, asked=True) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("name", sorted(METRICS))
def test_nothing_passes_on_nothing_or_nan(name):
    threshold = {"agreement": 0.1, "cosine": -1.0, "sqnr_db": -1000.0, "top5_overlap": 0.0}.get(name, 100.0)
    assert verdict(LogitMeter(4).report(), name, threshold) is Verdict.FAIL
    meter = LogitMeter(4)
    logits = np.ones((500, 4))
    logits[7, 1] = np.nan
    meter.add(np.ones((500, 4)), logits, names=["name"] * 500)
    (result,) = judge(meter.report(), [Gate(name, threshold)], on="val")
    assert result.verdict is Verdict.FAIL
    assert "NaN or Inf on 1 of 500 images" in result.sentence


def test_equal_logits_pass_an_sqnr_gate_and_a_silent_reference_fails_it():
    same, silent = LogitMeter(2), LogitMeter(2)
    same.add(np.ones((3, 2)), np.ones((3, 2)), names=["name"] * 3)
    silent.add(np.zeros((3, 2)), np.ones((3, 2)), names=["name"] * 3)
    assert verdict(same.report(), "sqnr_db", 40) is Verdict.PASS
    assert verdict(silent.report(), "sqnr_db", -100) is Verdict.FAIL


@pytest.mark.parametrize(
    ("verdicts", "expected", "code"),
    [
        ("pass pass", Verdict.PASS, 0),
        ("pass skipped", Verdict.PASS, 0),
        ("pass inconclusive", Verdict.INCONCLUSIVE, 3),
        ("inconclusive fail", Verdict.FAIL, 1),
        ("skipped skipped", Verdict.INCONCLUSIVE, 3),
        ("", Verdict.INCONCLUSIVE, 3),
    ],
)
def test_overall(verdicts, expected, code):
    assert overall(Verdict(word) for word in verdicts.split()) is expected
    assert expected.exit_code == code


@pytest.mark.parametrize(
    ("name", "threshold"), [("top2", 1.0), ("agreement", 1.5), ("agreement", float("nan")), ("kl", -1.0)]
)
def test_gates_that_make_no_sense_are_refused(name, threshold):
    with pytest.raises(ValueError, match="expected"):
        Gate(name, threshold)


def test_every_default_is_a_gate():
    for gates in DEFAULT_GATES.values():
        assert [Gate(name, threshold).name for name, threshold in gates.items()]
