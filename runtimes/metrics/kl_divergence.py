"""Kullback-Leibler divergence of two softmaxes, from their logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kl_divergence(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum_c p_c log(p_c / q_c) per image, in nats; p and q are the softmax of logits [n, num_classes].

    Images with equal logits give 0 exactly.
    """
    log_p, log_q = _log_softmax(reference), _log_softmax(candidate)
    divergence: NDArray[np.float64] = np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
    divergence[(reference == candidate).all(axis=1)] = 0.0  # whatever rounding left
    return divergence


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
