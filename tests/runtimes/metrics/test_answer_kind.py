"""Logits, probabilities and what lies between: one Softmax, whatever the file gives."""

import numpy as np
import pytest
from scipy import special

from runtimes.inference.classification import head_from_outputs
from runtimes.metrics.answer_kind import AnswerKind, kind_in, kind_of_answers
from runtimes.metrics.kl_divergence import kl_divergence
from runtimes.protocol import TensorSpec

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 5)).astype(np.float32)
OTHERS = LOGITS + np.random.default_rng(1).normal(0, 0.5, LOGITS.shape).astype(np.float32)
GIVEN = {
    AnswerKind.LOGITS: lambda x: x,
    AnswerKind.LOG_PROBABILITIES: lambda x: special.log_softmax(x, axis=1),
    AnswerKind.PROBABILITIES: lambda x: special.softmax(x, axis=1),
}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("told", [True, False])
def test_classes_get_the_probability_that_one_softmax_gives(kind, told):
    outputs = {"y": GIVEN[kind](LOGITS)}
    head = head_from_outputs({"y": TensorSpec("float32", (None, 5))}, labels=None, kind=kind if told else None)
    answers = head.classes(outputs, top=5)
    got = [[one.probability for one in sorted(answer.top, key=lambda one: one.index)] for answer in answers]
    np.testing.assert_allclose(got, special.softmax(LOGITS.astype(np.float64), axis=1), atol=1e-6)


def test_a_sigmoid_is_taken_as_it_is():
    scores = special.expit(LOGITS)
    head = head_from_outputs({"y": TensorSpec("float32", (None, 5))}, labels=None, kind=AnswerKind.INDEPENDENT)
    assert head.classes({"y": scores}, top=1)[0].probability == pytest.approx(scores[0].max())


@pytest.mark.parametrize("top", [0, 1.0, "1", True])
def test_how_many_classes_is_a_whole_number(top):
    head = head_from_outputs({"y": TensorSpec("float32", (None, 5))}, labels=None, kind=AnswerKind.LOGITS)
    assert len(head.classes({"y": LOGITS}, top=np.int64(2))[0].top) == 2
    with pytest.raises(ValueError, match=r"top: got .*, expected a whole number, at least 1"):
        head.classes({"y": LOGITS}, top=top)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (AnswerKind.PROBABILITIES, lambda best: best),
        (AnswerKind.LOG_PROBABILITIES, np.exp),
        (AnswerKind.LOGITS, None),
        (None, None),
    ],
)
def test_the_best_k(kind, expected):
    scores = np.float32([[-0.1, -3.0]]) if kind is AnswerKind.LOG_PROBABILITIES else np.float32([[0.7, 0.2]])
    specs = {"scores": TensorSpec("float32", (None, 2)), "indices": TensorSpec("int64", (None, 2))}
    (answer,) = head_from_outputs(specs, labels=None, kind=kind).classes(
        {"scores": scores, "indices": np.array([[3, 1]])}, top=2
    )
    wanted = [None, None] if expected is None else expected(scores[0].astype(np.float64)).tolist()
    assert [one.probability for one in answer.top] == pytest.approx(wanted) if expected else wanted == [None, None]


def test_answers_tell_their_kind_but_for_the_sigmoid():
    for kind, give in GIVEN.items():
        assert (kind_of_answers(give(LOGITS)) or AnswerKind.LOGITS) is kind
    assert kind_of_answers(special.expit(LOGITS)) is None
    assert kind_of_answers(np.zeros((0, 5))) is None
    assert kind_of_answers(np.full((2, 5), np.nan)) is None


@pytest.mark.parametrize("kind", GIVEN)
def test_the_divergence_is_that_of_the_probabilities(kind):
    p, q = (special.softmax(side.astype(np.float64), axis=1) for side in (LOGITS, OTHERS))
    both = (GIVEN[kind](side).astype(np.float64) for side in (LOGITS, OTHERS))
    np.testing.assert_allclose(kl_divergence(*both), special.rel_entr(p, q).sum(axis=1), rtol=1e-4, atol=1e-9)


def test_the_divergence_of_sigmoids_counts_the_opposites():
    p, q = (special.expit(side.astype(np.float64)) for side in (LOGITS, OTHERS))
    expected = (special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(p, q, AnswerKind.INDEPENDENT), expected, rtol=1e-6)


def test_a_probability_that_underflowed_is_not_impossible():
    assert np.isfinite(kl_divergence(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))).all()


def test_what_a_manifest_says():
    assert kind_in({}) is None
    assert kind_in({"answers": "nonsense"}) is None
    assert kind_in({"answers": "independent"}) is AnswerKind.INDEPENDENT
    assert kind_in({"answers": "logits"}, softmax=True) is AnswerKind.PROBABILITIES
