"""Kullback-Leibler divergence of two classifiers' answers, from their logits or what else they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtimes.metrics.answer_kind import AnswerKind, kind_of_answers

LEAST_PROBABILITY = 2.0**-126
"""The smallest normal float32: a probability that underflowed to 0 counts as this, not as impossible."""


def kl_divergence(
    reference: NDArray[np.float64], candidate: NDArray[np.float64], kind: AnswerKind | None = None
) -> NDArray[np.float64]:
    """Return sum_c p_c log(p_c / q_c) per image, in nats.

    p and q are the softmax of logits [n, num_classes]; of a network that ends in a Softmax its outputs themselves; of
    one that ends in a Sigmoid the sum runs over the classes and their opposites. Equal answers give 0.

    Args:
        reference: Answers, float64 [n, num_classes].
        candidate: Answers of the same kind, same shape.
        kind: What they are; None to tell by `reference` itself.
    """
    kind = kind or kind_of_answers(reference) or AnswerKind.LOGITS
    if kind is AnswerKind.INDEPENDENT:
        pairs = [(reference, candidate), (1 - reference, 1 - candidate)]
        divergence = sum((_terms(_log(p), _log(q)) for p, q in pairs), np.zeros(len(reference)))
    elif kind is AnswerKind.PROBABILITIES:
        divergence = _terms(_log(reference), _log(candidate))
    else:
        divergence = _terms(_log_softmax(reference), _log_softmax(candidate))
    divergence[(reference == candidate).all(axis=1)] = 0.0  # whatever rounding left
    return divergence


def _terms(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
    return total


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return result


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
