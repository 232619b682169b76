"""The kind of a classifier's numbers, logits or probabilities, so that a Softmax is applied once, here or in the file.

    logits               p = softmax(x)
    log-probabilities    p = exp(x), which softmax(x) is too
    probabilities        p = x: the file ends in a Softmax
    independent          p = x: the file ends in a Sigmoid, one yes or no for each class; the sum says nothing
    features             no classes at all: a network without classifier, or maps

An export writes the word into the manifest and the file's metadata, from the graph (`exporter.graph.output_kind`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "answers"
"""Of the manifest's `model`, and of a file's metadata."""

MAX_SUM_ERROR = 1e-3
"""Of a row of probabilities from 1: FP16's Softmax over 1000 classes is off by 2e-4."""


class AnswerKind(Enum):
    """The kinds of the module docstring."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log-probabilities"
    PROBABILITIES = "probabilities"
    INDEPENDENT = "independent"
    FEATURES = "features"

    @property
    def needs_softmax(self) -> bool:
        """Whether a Softmax makes probabilities of it; of log-probabilities it makes what they are the logarithm of."""
        return self in (AnswerKind.LOGITS, AnswerKind.LOG_PROBABILITIES)

    def probabilities(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return probabilities, float64 [N, C], of scores [N, C]."""
        wide = scores.astype(np.float64)
        if not self.needs_softmax:
            return wide
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return result


def kind_in(described: Mapping[str, Any], *, softmax: bool = False) -> AnswerKind | None:
    """Return the kind that a manifest's `model` or a file's metadata names, None where it names none.

    Args:
        described: What may hold `KEY`; in a manifest it is the kind of the network itself.
        softmax: Whether the files have a Softmax behind the network (`--softmax`).
    """
    if softmax:
        return AnswerKind.PROBABILITIES
    return next((kind for kind in AnswerKind if kind.value == described.get(KEY)), None)


def kind_of_answers(scores: NDArray[Any]) -> AnswerKind | None:
    """Return the kind that answers show by themselves: every row sums to 1, or its powers do; None where none does.

    Logits of two classes or more do not add up to 1 row for row by chance.
    """
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores) or not np.isfinite(scores).all():
        return None
    wide = scores.astype(np.float64)
    if wide.min() >= 0 and np.abs(wide.sum(axis=1) - 1).max() <= MAX_SUM_ERROR:
        return AnswerKind.PROBABILITIES
    if wide.max() <= 0 and np.abs(np.exp(wide).sum(axis=1) - 1).max() <= MAX_SUM_ERROR:
        return AnswerKind.LOG_PROBABILITIES
    return None
