"""A strict LogitMeter, TensorMeter and compare: numbers by hand, one-liners as a second source, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from graph_builder import GraphBuilder

from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import compare, first_output
from runtimes.metrics.tensor_meter import TensorMeter
from runtimes.ort.adapter import OrtRuntime
from runtimes.protocol import TensorSpec

SEED = 20260110


def report_of(reference, candidate, labels=None) -> LogitComparison:
    meter = LogitMeter(strict=True)
    meter.add(np.asarray(reference, np.float32), np.asarray(candidate, np.float32), labels=labels)
    return meter.report()


def strict_json(report: LogitComparison) -> dict:
    return json.loads(json.dumps(report.parity_json(), allow_nan=False))


def test_by_hand():
    """Signal 9 + 16 + 1 + 4 + 0 + 4 = 34; noise 0 + 1 + 0 + 4 + 0.25 + 0 = 5.25."""
    reference = [[3.0, -4.0], [1.0, 2.0], [0.0, -2.0]]
    candidate = [[3.0, -3.0], [1.0, 0.0], [0.5, -2.0]]
    report = report_of(reference, candidate, [0, 1, 1])
    assert strict_json(report) == {
        "num_images": 3,
        "agreement": 2 / 3,
        "max_abs_diff": 2.0,
        "max_abs_reference": 4.0,
        "sqnr_db": pytest.approx(10 * math.log10(34 / 5.25)),
        "top1_reference": 2 / 3,
        "top1_candidate": 1 / 3,
        "top1_drop_pp": pytest.approx(100 / 3),
    }
    assert report.top1_drop_pp == pytest.approx(100 / 3)


def test_a_gain_is_a_negative_drop():
    report = report_of([[1.0, 0.0]], [[0.0, 1.0]], [1])
    assert (report.top1_reference, report.top1_candidate, report.top1_drop_pp) == (0.0, 1.0, -100.0)


def test_without_labels_there_is_no_top1():
    report = report_of([[1.0, 0.0]], [[1.0, 0.5]])
    assert (report.top1_reference, report.top1_candidate, report.top1_drop_pp) == (None, None, None)


def test_identical_logits_have_no_sqnr():
    logits = np.random.default_rng(SEED).normal(size=(5, 4))
    report = report_of(logits, logits, [0, 1, 2, 3, 0])
    assert (report.agreement, report.max_abs_diff, report.sqnr_db, report.top1_drop_pp) == (1.0, 0.0, None, 0.0)
    assert strict_json(report)["sqnr_db"] is None


def test_a_reference_of_zeros_stays_valid_json():
    """10 log10(0 / noise) is minus infinity, which JSON cannot hold; `max_abs_diff` tells it from equality."""
    report = report_of(np.zeros((2, 3)), np.ones((2, 3)))
    assert (report.sqnr_db, report.max_abs_diff, report.max_abs_reference) == (None, 1.0, 0.0)
    assert strict_json(report)["sqnr_db"] is None
    assert strict_json(report_of(np.zeros((2, 3)), np.zeros((2, 3))))["max_abs_diff"] == 0.0


def test_json_holds_every_field_and_the_drop():
    report = report_of([[1.0, 0.0]], [[1.0, 0.5]], [0])
    assert strict_json(report) == {
        "num_images": 1,
        "agreement": 1.0,
        "max_abs_diff": 0.5,
        "max_abs_reference": 1.0,
        "sqnr_db": pytest.approx(10 * math.log10(1 / 0.25)),
        "top1_reference": 1.0,
        "top1_candidate": 1.0,
        "top1_drop_pp": 0.0,
    }


@pytest.fixture
def logits():
    rng = np.random.default_rng(SEED)
    reference = (rng.normal(size=(97, 10)) * 4).astype(np.float32)
    candidate = (reference + rng.normal(size=(97, 10)) * 0.8).astype(np.float32)
    labels = np.where(rng.random(97) < 0.7, reference.argmax(1), rng.integers(0, 10, 97))
    return reference, candidate, labels


def test_against_one_liners(logits):
    from sklearn.metrics import accuracy_score

    reference, candidate, labels = logits
    report = report_of(reference, candidate, labels)
    assert report.agreement == np.mean(reference.argmax(1) == candidate.argmax(1))
    assert 0.5 < report.agreement < 1.0
    assert report.max_abs_diff == np.abs(reference.astype(np.float64) - candidate).max()
    assert report.max_abs_reference == np.abs(reference).max()
    assert report.sqnr_db == pytest.approx(
        20 * np.log10(np.linalg.norm(reference) / np.linalg.norm(reference - candidate)), rel=1e-6
    )
    assert report.top1_reference == accuracy_score(labels, reference.argmax(1))
    assert report.top1_candidate == accuracy_score(labels, candidate.argmax(1))


@pytest.mark.parametrize("sizes", [(1,) * 97, (50, 47), (96, 1)])
def test_streaming_equals_all_at_once(logits, sizes):
    reference, candidate, labels = logits
    meter = LogitMeter(strict=True)
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        meter.add(reference[part], candidate[part], labels=labels[part])
        first += size
    streamed, at_once = meter.report(), report_of(reference, candidate, labels)
    assert streamed.sqnr_db == pytest.approx(at_once.sqnr_db, rel=1e-12)
    for name in ("num_images", "agreement", "max_abs_diff", "max_abs_reference", "top1_reference", "top1_candidate"):
        assert getattr(streamed, name) == getattr(at_once, name), name


def test_small_noise_is_not_lost_to_float32():
    """Squares of 1e-25 are below what float32 holds."""
    reference = np.full((1, 4), 1.0, np.float32)
    candidate = reference.copy()
    candidate[0, 0] += np.float32(2.0**-23)
    assert report_of(reference, candidate).sqnr_db == pytest.approx(10 * math.log10(4 * 2.0**46))
    assert report_of(reference * 1e-25, candidate * 0).sqnr_db == pytest.approx(0.0)


def test_the_arrays_are_not_changed(logits):
    reference, candidate, _ = logits
    before = reference.copy(), candidate.copy()
    report_of(reference, candidate)
    assert np.array_equal(reference, before[0])
    assert np.array_equal(candidate, before[1])


class TestRefused:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("side", ["reference", "candidate"])
    def test_nan_and_inf(self, bad, side):
        good, broken = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
        broken[1, 1:] = bad
        meter = LogitMeter(strict=True)
        arguments = (broken, good) if side == "reference" else (good, broken)
        with pytest.raises(RuntimeAdapterError, match=f"the {side} gave NaN or Inf in 2 logits"):
            meter.add(*arguments)

    @pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((6,), (6,)), ((1, 2, 3), (1, 2, 3))])
    def test_shapes(self, shapes):
        with pytest.raises(ValueError, match="expected equal"):
            LogitMeter(strict=True).add(*(np.zeros(shape, np.float32) for shape in shapes))

    @pytest.mark.parametrize("labels", [[0], [0, 1, 2], [], [[0, 1]]])
    def test_number_of_labels(self, labels):
        with pytest.raises(ValueError, match="labels: got shape"):
            LogitMeter(strict=True).add(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32), labels=labels)

    @pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0, 999]])
    def test_labels_that_are_no_class(self, labels):
        """They could never be right: the folders were matched to another model's classes."""
        with pytest.raises(ValueError, match=r"labels: got -?\d+ to \d+, expected 0 to 2"):
            LogitMeter(strict=True).add(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32), labels=labels)

    def test_a_refused_batch_leaves_no_trace(self):
        meter = LogitMeter(strict=True)
        good = np.array([[1.0, 0.0]], np.float32)
        meter.add(good, good, labels=[0])
        expected = meter.report()
        for labels, candidate in (([5], good), ([0, 0], good), ([0], good * np.nan), ([0], good[:, :1])):
            with pytest.raises((ValueError, RuntimeAdapterError)):
                meter.add(good * 7, candidate * 3, labels=labels)
        assert meter.report() == expected

    def test_nothing_compared(self):
        with pytest.raises(ValueError, match="no image was compared"):
            LogitMeter(strict=True).report()

    def test_labels_for_some_images_only(self):
        meter = LogitMeter(strict=True)
        meter.add(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), labels=[0, 1])
        with pytest.raises(ValueError, match="labels: got none, expected them for all or none"):
            meter.add(np.ones((1, 3), np.float32), np.ones((1, 3), np.float32))


class Fixed:
    """A runtime that returns given logits, image by image: each image holds its own number."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)
        self.input_specs = {"input": TensorSpec("float32", (None, 1))}
        self.output_specs = {"logits": TensorSpec("float32", (None, None)), "other": TensorSpec("float32", (None,))}

    def run(self, inputs):
        (images,) = inputs.values()
        return {"other": np.zeros(len(images)), "logits": self.logits[images[:, 0].astype(int)]}


def numbered(*sizes: int):
    first = 0
    for size in sizes:
        yield np.arange(first, first + size, dtype=np.float32)[:, np.newaxis]
        first += size


class TestCompare:
    def test_labels_stay_with_their_images(self, logits):
        reference, candidate, labels = logits
        for given in (labels, labels.tolist(), tuple(labels)):
            got = compare(Fixed(reference), Fixed(candidate), numbered(40, 40, 17), labels=given)
            expected = report_of(reference, candidate, labels)
            assert (got.top1_reference, got.top1_candidate) == (expected.top1_reference, expected.top1_candidate)
            assert (got.agreement, got.num_images) == (expected.agreement, 97)

    def test_which_side_is_which(self):
        got = compare(Fixed([[2.0, 0.0]]), Fixed([[0.0, 1.0]]), numbered(1), labels=[0])
        assert (got.top1_reference, got.top1_candidate, got.max_abs_reference) == (1.0, 0.0, 2.0)

    def test_the_first_output_by_spec_is_compared(self):
        assert first_output(Fixed([[1.0, 2.0]]), next(numbered(1))).tolist() == [[1.0, 2.0]]

    @pytest.mark.parametrize("num_labels", [0, 2, 3, 5, 8])
    def test_number_of_labels(self, num_labels):
        runtime = Fixed(np.eye(4))
        with pytest.raises(ValueError, match="labels"):
            compare(runtime, runtime, numbered(2, 2), labels=[0] * num_labels)

    def test_no_batches(self):
        with pytest.raises(ValueError, match="no image was compared"):
            compare(Fixed([[1.0]]), Fixed([[1.0]]), [])

    def test_two_real_runtimes(self):
        graph = GraphBuilder()
        model = graph.model(graph.gemm("logits", graph.conv("conv", "input", 4), 3))
        images = np.random.default_rng(SEED).normal(size=(5, 2, 8, 8)).astype(np.float32)
        with OrtRuntime(model) as first, OrtRuntime(model) as second:
            report = compare(first, second, [images[:3], images[3:]])
        assert (report.num_images, report.agreement, report.sqnr_db) == (5, 1.0, None)


# Feature maps


def test_tensor_meter_by_hand():
    """Reference (3, 4), candidate (3, 3): noise 1, signal 25, cosine 21 / (5 sqrt 18)."""
    meter = TensorMeter()
    meter.add(np.array([[3.0]]), np.array([[3.0]]))
    meter.add(np.array([[4.0]]), np.array([[3.0]]))
    report = meter.report()
    assert (report.num_images, report.max_abs_diff, report.max_abs_reference) == (2, 1.0, 4.0)
    assert report.sqnr_db == pytest.approx(10 * math.log10(25))
    assert report.cosine == pytest.approx(21 / (5 * math.sqrt(18)))


def test_tensor_meter_takes_maps_of_any_rank_and_no_batch_twice():
    random = np.random.default_rng(0)
    whole = random.normal(size=(6, 2, 3, 3)), random.normal(size=(6, 2, 3, 3))
    meters = TensorMeter(), TensorMeter()
    meters[0].add(*whole)
    for part in (slice(0, 2), slice(2, 6)):
        meters[1].add(whole[0][part], whole[1][part])
    one, two = meters[0].report(), meters[1].report()
    assert (one.sqnr_db, one.cosine) == (pytest.approx(two.sqnr_db), pytest.approx(two.cosine))
    assert one.cosine == pytest.approx(np.corrcoef(whole[0].ravel(), whole[1].ravel())[0, 1], abs=0.05)


def test_meters_of_batches_include_one_another_as_if_added_in_turn():
    """To the last bit: what is measured side by side is the same figure."""
    random = np.random.default_rng(1)
    batches = [(random.normal(size=(2, 3, 4, 5)), random.normal(size=(2, 3, 4, 5))) for _ in range(3)]
    in_turn, total = TensorMeter(), TensorMeter()
    for batch in batches:
        in_turn.add(*batch)
        one = TensorMeter()
        one.add(*batch)
        total.include(one)
    assert in_turn.report() == total.report()


def test_tensor_meter_refuses():
    meter = TensorMeter()
    with pytest.raises(ValueError, match="no image was compared"):
        meter.report()
    with pytest.raises(ValueError, match="equal shapes"):
        meter.add(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(RuntimeAdapterError, match="candidate gave NaN"):
        meter.add(np.zeros((1, 2)), np.full((1, 2), np.nan))
    meter.add(np.zeros((1, 2)), np.zeros((1, 2)))
    assert (meter.report().cosine, meter.report().sqnr_db) == (None, None)
