"""Adds up batches of logits of two models: the one comparison of answers, for exports, budgets, rankings and gates.

Memory grows only with the answers that differ, up to a limit.

SQNR     10 log10( sum reference^2 / sum (reference - candidate)^2 )  in dB, over all logits of all images
cosine   sum reference * candidate / ( |reference| |candidate| ),  over all logits of all images
KL       mean over images of sum_c p_c log(p_c / q_c) in nats; p, q the softmax of reference and candidate

Sums are float64. NaN and Inf are counted, never added: a comparison that holds one passes no gate. A strict meter
refuses them, and a comparison of nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.metrics.difference_sums import DifferenceSums
from runtimes.metrics.kl_divergence import kl_divergence
from runtimes.metrics.logit_comparison import ClassResult, Flip, LabelledResult, LogitComparison, Ranking
from runtimes.protocol import Array

MAX_FLIPS = 1000
"""Flips that are kept, those of the largest margin: 2 % of ImageNet's 50 000 validation images."""

NUM_TOP = 5
NUM_SHOWN = 3

Logits = NDArray[np.float64]


class LogitMeter:
    """Adds up batches; `report` may be asked for at any time.

    Args:
        num_classes: Width of the logits; None takes that of the first batch.
        labelled: Whether every image comes with its class; None takes what the first batch does.
        strict: Raise on NaN, Inf and on no image at all.
        max_flips: Flips that are kept; all are counted.
        kind: What the answers are, for the divergence; None to tell by themselves.

    Raises:
        ValueError: If there are fewer than two classes: then no answer can differ.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        labelled: bool | None = None,
        strict: bool = False,
        max_flips: int = MAX_FLIPS,
        kind: AnswerKind | None = None,
    ) -> None:
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
        self._strict = strict
        self._num_classes = num_classes
        self._labelled = labelled
        self._max_flips = max_flips
        self._kind = kind
        self._num_images = 0
        self._nonfinite = [0, 0]
        self._sums = DifferenceSums()
        self._divergence = self._overlap = 0.0
        self._top5 = [0, 0]
        self._losses = self._gains = 0
        self._classes = np.zeros((num_classes or 0, 4), np.int64)  # images, equal, right reference, right candidate
        self._flips: list[tuple[float, int, Flip]] = []  # margin, minus the place in the stream
        self._num_flips = 0

    def add(
        self,
        reference: Array,
        candidate: Array,
        *,
        names: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Add one batch.

        Args:
            reference: Logits, float [n, num_classes].
            candidate: Logits of the same images, same shape.
            names: Name of each image, [n]; None numbers them.
            labels: Class of each image, 0 <= class < num_classes; for all batches or none.

        Raises:
            ValueError: If a shape or length is another, or a label is no class; nothing is added then.
            RuntimeAdapterError: If the meter is strict and a logit is NaN or Inf; nothing is added then.
        """
        if reference.ndim != 2 or reference.shape != candidate.shape:
            raise ValueError(f"logits: got {reference.shape} and {candidate.shape}, expected equal [n, num_classes]")
        if names is None:
            names = [f"image {self._num_images + place}" for place in range(len(reference))]
        expected = (len(names), self._num_classes or reference.shape[1])
        if reference.shape != expected:
            raise ValueError(f"logits: got {reference.shape} twice, expected {expected}")
        truth = self._checked_labels(labels, expected)
        both = reference.astype(np.float64), candidate.astype(np.float64)
        bad = [~np.isfinite(side).all(axis=1) for side in both]
        if self._strict:
            _refuse_nonfinite(both)
        if self._num_classes is None:
            self._classes = np.zeros((expected[1], 4), np.int64)
        self._num_classes, self._labelled = expected[1], labels is not None
        self._num_images += len(names)
        self._nonfinite[0] += int(bad[0].sum())
        self._nonfinite[1] += int((bad[1] & ~bad[0]).sum())
        good = np.flatnonzero(~(bad[0] | bad[1]))
        if len(good):
            self._add_finite(both[0][good], both[1][good], [names[int(place)] for place in good], truth[good])

    def report(self) -> LogitComparison:
        """Return the comparison of everything added so far; of nothing, one of 0 images, which passes no gate.

        Raises:
            ValueError: If the meter is strict and nothing was added.
        """
        if self._strict and not self._num_images:
            raise ValueError("no image was compared; an empty comparison proves nothing")
        num_finite = self._num_images - sum(self._nonfinite)
        per_image = max(1, num_finite)
        known = self._classes if self._labelled else self._classes[:, :2]
        return LogitComparison(
            num_images=self._num_images,
            num_classes=self._num_classes or 0,
            nonfinite=(self._nonfinite[0], self._nonfinite[1]),
            max_abs_diff=self._sums.max_abs_diff,
            mean_abs_diff=self._sums.sum_abs_diff / (per_image * (self._num_classes or 1)),
            max_abs_reference=self._sums.max_abs_reference,
            sqnr_db=self._sums.sqnr_db,
            cosine=self._sums.cosine,
            kl=max(0.0, self._divergence / per_image),  # rounding may leave -1e-17
            num_equal=int(self._classes[:, 1].sum()),
            top5_overlap=self._overlap / per_image,
            flips=tuple(flip for _, _, flip in sorted(self._flips, reverse=True)),
            classes=tuple(ClassResult(index, *row) for index, row in enumerate(known.tolist()) if row[0]),
            labelled=self._accuracy(num_finite) if self._labelled and num_finite else None,
        )

    def _checked_labels(self, labels: Sequence[int] | None, shape: tuple[int, int]) -> NDArray[np.int64]:
        num_images, num_classes = shape
        if self._labelled is not None and (labels is not None) != self._labelled:
            raise ValueError(f"labels: got {'some' if labels is not None else 'none'}, expected them for all or none")
        if labels is None:
            return np.full(num_images, -1, np.int64)
        truth = np.asarray(labels, np.int64)
        if truth.shape != (num_images,):
            raise ValueError(f"labels: got shape {list(truth.shape)}, expected [{num_images}]")
        if num_images and not (truth.min() >= 0 and truth.max() < num_classes):
            raise ValueError(f"labels: got {truth.min()} to {truth.max()}, expected 0 to {num_classes - 1}")
        return truth

    def _add_finite(self, trusted: Logits, tested: Logits, names: Sequence[str], truth: NDArray[np.int64]) -> None:
        self._sums.add(trusted, tested)
        self._divergence += float(kl_divergence(trusted, tested, self._kind).sum())
        best = [np.argsort(-side, axis=1, kind="stable")[:, :NUM_TOP] for side in (trusted, tested)]
        shared = (best[0][:, :, np.newaxis] == best[1][:, np.newaxis, :]).any(axis=2)
        self._overlap += float(shared.mean(axis=1).sum())
        winners = best[0][:, 0], best[1][:, 0]
        equal = winners[0] == winners[1]
        group = truth if self._labelled else winners[0]
        np.add.at(self._classes[:, 0], group, 1)
        np.add.at(self._classes[:, 1], group, equal)
        if self._labelled:
            right = [winner == truth for winner in winners]
            for side in (0, 1):
                np.add.at(self._classes[:, 2 + side], group, right[side])
                self._top5[side] += int((best[side] == truth[:, np.newaxis]).any(axis=1).sum())
            self._losses += int(np.sum(right[0] & ~right[1]))
            self._gains += int(np.sum(right[1] & ~right[0]))
        for place in map(int, np.flatnonzero(~equal)):
            rows = trusted[place], tested[place]
            self._keep(_flip(names[place], int(truth[place]), rows, (best[0][place], best[1][place])))

    def _keep(self, flip: Flip) -> None:
        """Keep the flip if it is among those of the largest margin; the earlier one of equals."""
        self._num_flips += 1
        heapq.heappush(self._flips, (flip.margin, -self._num_flips, flip))
        if len(self._flips) > self._max_flips:
            heapq.heappop(self._flips)

    def _accuracy(self, num_images: int) -> LabelledResult:
        right = self._classes[:, 2:].sum(axis=0)
        return LabelledResult(
            top1=(int(right[0]) / num_images, int(right[1]) / num_images),
            top5=(self._top5[0] / num_images, self._top5[1] / num_images),
            losses=self._losses,
            gains=self._gains,
            num_images=num_images,
        )


def _refuse_nonfinite(both: tuple[Logits, Logits]) -> None:
    for side, logits in zip(("reference", "candidate"), both, strict=True):
        if count := int(np.sum(~np.isfinite(logits))):
            raise RuntimeAdapterError(
                f"the {side} gave NaN or Inf in {count} logits; check the weights and the preprocessing"
            )


def _flip(name: str, label: int, rows: tuple[Logits, Logits], best: tuple[Array, Array]) -> Flip:
    tops: list[Ranking] = [
        tuple((int(index), float(row[index])) for index in order[:NUM_SHOWN])
        for row, order in zip(rows, best, strict=True)
    ]
    return Flip(
        image=name,
        label=label if label >= 0 else None,
        reference_class=tops[0][0][0],
        candidate_class=tops[1][0][0],
        margin=tops[0][0][1] - tops[0][1][1],
        reference_top3=tops[0],
        candidate_top3=tops[1],
    )
