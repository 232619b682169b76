"""The metrics against SciPy and scikit-learn, on logits of two models that nearly agree."""

import numpy as np
import pytest
from scipy import special, stats
from scipy.spatial import distance
from sklearn.metrics import top_k_accuracy_score

from runtimes.verification import LogitMeter

NUM_IMAGES, NUM_CLASSES = 200, 12


@pytest.fixture(scope="module")
def logits():
    generator = np.random.default_rng(5)
    reference = generator.normal(size=(NUM_IMAGES, NUM_CLASSES)).astype(np.float32) * 3
    candidate = reference + generator.normal(size=reference.shape).astype(np.float32)
    return reference, candidate, generator.integers(0, NUM_CLASSES, NUM_IMAGES)


def names(count, first=0):
    return [f"image{place}" for place in range(first, first + count)]


def compared(reference, candidate, labels=None, **options):
    meter = LogitMeter(reference.shape[1], labelled=labels is not None, **options)
    meter.add(reference, candidate, names=names(len(reference)), labels=labels)
    return meter.report()


def test_difference_metrics(logits):
    reference, candidate, _ = (values.astype(np.float64) for values in logits)
    found = compared(*logits[:2])
    assert found.max_abs_diff == np.abs(reference - candidate).max()
    assert found.mean_abs_diff == pytest.approx(np.abs(reference - candidate).mean(), rel=1e-12)
    assert found.relative_max_diff == pytest.approx(found.max_abs_diff / np.abs(reference).max(), rel=1e-12)
    noise = np.square(reference - candidate).mean()
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.square(reference).mean() / noise), rel=1e-12)


def test_cosine_and_kl_are_scipys(logits):
    reference, candidate = logits[:2]
    found = compared(reference, candidate)
    flat = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    assert found.cosine == pytest.approx(1 - distance.cosine(*flat), abs=1e-12)
    softmax = [special.softmax(side.astype(np.float64), axis=1) for side in (reference, candidate)]
    assert found.kl == pytest.approx(stats.entropy(*softmax, axis=1).mean(), rel=1e-9)


def test_accuracy_is_scikit_learns(logits):
    reference, candidate, labels = logits
    found = compared(reference, candidate, labels).labelled
    for side, scores in enumerate((reference, candidate)):
        for k, got in ((1, found.top1[side]), (5, found.top5[side])):
            assert got == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(NUM_CLASSES)))
    right = [scores.argmax(1) == labels for scores in (reference, candidate)]
    assert (found.losses, found.gains) == (int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    assert found.mcnemar_p == pytest.approx(stats.binomtest(found.losses, found.losses + found.gains).pvalue)
    low, high = found.drop_interval_pp()
    assert low < found.top1_drop_pp < high


def test_agreement_and_overlap(logits):
    reference, candidate, _ = logits
    found = compared(reference, candidate)
    assert found.agreement == np.mean(reference.argmax(1) == candidate.argmax(1))
    expected = stats.binomtest(found.num_equal, NUM_IMAGES).proportion_ci(0.95, method="wilson")
    assert found.agreement_interval() == pytest.approx(tuple(expected), abs=1e-12)
    best = [np.argsort(-side, axis=1)[:, :5].tolist() for side in (reference, candidate)]
    shared = [len(set(one) & set(other)) / 5 for one, other in zip(*best, strict=True)]
    assert found.top5_overlap == pytest.approx(np.mean(shared))


def test_flips_tell_image_margin_and_both_top3():
    reference = np.array([[5.0, 4.99, 0.0, 1.0], [9.0, 1.0, 0.0, 2.0], [1.0, 2.0, 3.0, 0.0]], np.float32)
    candidate = np.array([[4.9, 5.0, 0.0, 1.0], [1.0, 2.0, 7.0, 0.0], [1.0, 2.0, 3.0, 0.0]], np.float32)
    found = compared(reference, candidate, [0, 0, 2])
    sure, close = found.flips
    assert (sure.image, sure.label, sure.reference_class, sure.candidate_class) == ("image1", 0, 0, 2)
    assert sure.margin == 7.0
    assert sure.reference_top3 == ((0, 9.0), (3, 2.0), (1, 1.0))
    assert sure.candidate_top3 == ((2, 7.0), (1, 2.0), (0, 1.0))
    assert close.margin == pytest.approx(0.01, abs=1e-6)
    assert found.max_flip_margin == 7.0
    assert [
        (row.index, row.num_images, row.num_equal, row.right_reference, row.right_candidate) for row in found.classes
    ] == [
        (0, 2, 0, 2, 0),
        (2, 1, 1, 1, 1),
    ]


def test_classes_without_labels_are_the_references_answers(logits):
    reference, candidate, _ = logits
    found = compared(reference, candidate)
    winners = reference.argmax(1)
    assert {row.index: row.num_images for row in found.classes} == dict(
        zip(*np.unique(winners, return_counts=True), strict=True)
    )
    assert sum(row.num_equal for row in found.classes) == found.num_equal
    assert all(row.right_reference is None for row in found.classes)


def test_batches_add_up(logits):
    reference, candidate, labels = logits
    meter = LogitMeter(NUM_CLASSES, labelled=True)
    for first in range(0, NUM_IMAGES, 33):
        part = slice(first, first + 33)
        meter.add(reference[part], candidate[part], names=names(len(reference[part]), first), labels=labels[part])
    whole, pieces = compared(reference, candidate, labels), meter.report()
    assert pieces.flips == whole.flips
    assert pieces.classes == whole.classes
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
    assert pieces.kl == pytest.approx(whole.kl, rel=1e-12)


def test_the_surest_flips_are_kept_and_all_are_counted(logits):
    reference, candidate, _ = logits
    whole, few = compared(reference, candidate), compared(reference, candidate, max_flips=3)
    assert len(whole.flips) == whole.num_flips > 10
    assert few.flips == whole.flips[:3]
    assert few.num_flips == whole.num_flips


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_counted_and_in_no_figure(logits, side, value):
    broken = [logits[0].copy(), logits[1].copy()]
    broken[side][3, 2] = value
    found = compared(*broken)
    assert found.nonfinite == ((1, 0) if side == 0 else (0, 1))
    assert np.isfinite(found.max_abs_diff)
    content = found.to_json()
    assert content["num_images"] == NUM_IMAGES
    assert content["sqnr_db"] is content["agreement"] is content["max_abs_diff"] is None
    assert not content["exact"]


@pytest.mark.parametrize("seed", range(20))
def test_equal_logits_are_exact(seed):
    """By definition: |a||a| is not a.a to the last bit, and which seeds show that depends on the processor."""
    logits = np.random.default_rng(seed).normal(size=(NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
    found = compared(logits, logits.copy())
    assert found.exact
    assert found.sqnr_db is None
    assert found.kl == 0.0
    assert found.cosine == 1.0
    assert found.flips == ()


def test_nothing_added():
    found = LogitMeter(10).report()
    assert (found.num_images, found.agreement, found.exact) == (0, 0.0, False)
    assert found.to_json()["kl"] is None


@pytest.mark.parametrize(
    ("labels", "shape", "problem"),
    [([0, 1], (2, 3), "logits"), (None, (2, 4), "labels"), ([0], (2, 4), "labels"), ([0, 4], (2, 4), "0 to 3")],
)
def test_wrong_batches_are_refused(labels, shape, problem):
    meter = LogitMeter(4, labelled=True)
    with pytest.raises(ValueError, match=problem):
        meter.add(np.zeros((2, 4)), np.zeros(shape), names=names(2), labels=labels)
    assert meter.report().num_images == 0


def test_no_class_is_no_classifier():
    with pytest.raises(ValueError, match="at least 1"):
        LogitMeter(0)


def test_of_one_number_only_the_noise_is_told():
    meter = LogitMeter(1)
    meter.add(np.float32([[1.0], [2.0]]), np.float32([[1.0], [2.2]]))
    found = meter.report()
    assert not found.has_classes
    told = found.to_json()
    assert told["sqnr_db"] == pytest.approx(10 * np.log10(5 / 0.04), abs=1e-3)
    of_classes = ("kl", "agreement", "agreement_interval", "top5_overlap", "num_flips", "max_flip_margin")
    assert [told[name] for name in of_classes] == [None] * 6
    assert found.parity_json()["agreement"] is None
