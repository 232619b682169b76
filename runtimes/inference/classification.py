"""From a model's outputs to classes with probabilities, from logits, probabilities or the best K."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import NotAClassifierError, RuntimeAdapterError
from runtimes.metrics.answer_kind import AnswerKind, kind_of_answers
from runtimes.protocol import Array, TensorSpec

PROBABILITIES, SCORES, INDICES = "probabilities", "scores", "indices"
"""Output names of files with a softmax or a top K inside, as `resnet-export --softmax` and `--topk` write them."""


@dataclass(frozen=True, slots=True)
class ScoredClass:
    """One class of an answer.

    Attributes:
        label: Its name; its number in words where the model brings no labels.
        index: Its number, from 0.
        probability: 0-1; None where it cannot be known: a file that gives the best logits only.
        score: What the model gave for it: a logit, or the probability.
    """

    label: str
    index: int
    probability: float | None
    score: float

    def __str__(self) -> str:
        """Return the form for people, `tabby cat 87.1%`."""
        return self.label if self.probability is None else f"{self.label} {self.probability:.1%}"


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one picture: its best classes, best first, at least one."""

    top: tuple[ScoredClass, ...]

    @property
    def label(self) -> str:
        """The best class's name."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """The best class's number."""
        return self.top[0].index

    @property
    def probability(self) -> float | None:
        """The best class's probability, 0-1, or None where it cannot be known."""
        return self.top[0].probability

    def __str__(self) -> str:
        """Return the form for people, `tabby cat 87.1%`."""
        return str(self.top[0])


@dataclass(frozen=True, slots=True)
class Head:
    """How a model's outputs are read as classes.

    Attributes:
        scores: Name of the output float32 [N, C] (all classes) or [N, K] (the best).
        indices: Name of the output int64 [N, K] with the best classes' numbers, or None.
        kind: What the scores are; None where nobody says, and the answers themselves decide.
        labels: Name of class i at place i, or None.
    """

    scores: str
    indices: str | None
    kind: AnswerKind | None
    labels: tuple[str, ...] | None

    def classes(self, outputs: Mapping[str, Array], *, top: int = 5) -> list[Classification]:
        """Return the answer for each row of the outputs.

        Raises:
            RuntimeAdapterError: If a score is not finite: then the picture's preparation or the model is broken; or if
                what shall be a probability is none.
            ValueError: If `top` is below 1.
        """
        if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
            raise ValueError(f"top: got {top!r}, expected a whole number, at least 1")
        scores = outputs[self.scores]
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
            raise RuntimeAdapterError(
                f"the model's {self.scores} are not finite for picture {row}; check its input, or the file's FP16 range"
            )
        if self.kind in (AnswerKind.PROBABILITIES, AnswerKind.INDEPENDENT):
            _check_probabilities(scores, self.scores)
        if self.indices is not None:
            best, order = scores[:, :top], outputs[self.indices][:, :top]
            chances = _chances_of_best(best, self.kind)
        else:
            order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
            best = np.take_along_axis(scores, order, axis=1)
            kind = self.kind or kind_of_answers(scores) or AnswerKind.LOGITS
            chances = np.take_along_axis(kind.probabilities(scores), order, axis=1)
        known = [None] * len(best) if chances is None else chances.tolist()
        rows = zip(order.tolist(), best.tolist(), known, strict=True)
        return [
            Classification(
                tuple(
                    ScoredClass(self._label(index), index, None if chance is None else chance[place], score[place])
                    for place, index in enumerate(indices)
                )
            )
            for indices, score, chance in rows
        ]

    def _label(self, index: int) -> str:
        return str(index) if self.labels is None or index >= len(self.labels) else self.labels[index]


_ROUNDED = 0.01  # of a probability: more than one INT8 step, less than what logits give

FEATURES_TOLD = (
    "this model gives features, no classes: it has no classifier; use run(), or export a network with one "
    "(--num-classes N at export says that they are scores of classes all the same)"
)


ONE_NUMBER_TOLD = (
    "this model gives one number, which has no best class, and its softmax is always 1; use run() instead of classify()"
)


def _check_probabilities(scores: Array, name: str) -> None:
    """Raise unless scores that the model is said to give as probabilities can be some, up to rounding by INT8."""
    if not len(scores) or (scores.min() >= -_ROUNDED and scores.max() <= 1 + _ROUNDED):
        return
    raise RuntimeAdapterError(
        f"the model's {name} go from {scores.min():.4g} to {scores.max():.4g}, expected probabilities of 0 to 1, as "
        "its bundle or metadata says; export it anew"
    )


def _chances_of_best(best: Array, kind: AnswerKind | None) -> NDArray[np.float64] | None:
    """Return probabilities of the best K scores; None of logits, whose Softmax needs all of them."""
    if kind is AnswerKind.LOG_PROBABILITIES:
        return np.exp(best.astype(np.float64))
    return None if kind is None or kind.needs_softmax else best.astype(np.float64)


def head_from_outputs(
    specs: Mapping[str, TensorSpec], *, labels: Sequence[str] | None, kind: AnswerKind | None
) -> Head:
    """Find out how a model's outputs are read.

    Raises:
        NotAClassifierError: If there is no output [N, classes], or more than one.
    """
    names = None if labels is None else tuple(labels)
    if kind is AnswerKind.FEATURES:
        raise NotAClassifierError(FEATURES_TOLD)
    if {SCORES, INDICES} <= specs.keys():
        return Head(SCORES, INDICES, kind, names)
    tables = [name for name, spec in specs.items() if len(spec.shape) == 2 and spec.dtype.startswith("float")]
    if len(specs) != 1 or len(tables) != 1:
        told = ", ".join(f"{name} {spec}" for name, spec in specs.items())
        raise NotAClassifierError(
            f"this model gives {told}: no one output [N, classes]; use run() instead of classify()"
        )
    num_classes = specs[tables[0]].shape[1]
    if num_classes == 1 and kind is not AnswerKind.INDEPENDENT:
        raise NotAClassifierError(ONE_NUMBER_TOLD)
    if names is not None and num_classes is not None and num_classes != len(names):
        raise NotAClassifierError(f"{len(names)} labels for {num_classes} classes: which is which is not known")
    return Head(tables[0], None, AnswerKind.PROBABILITIES if tables[0] == PROBABILITIES else kind, names)
