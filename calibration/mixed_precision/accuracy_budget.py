"""The accuracy that INT8 may lose, and what measured images say about it.

    top-1 drop   right answers lost by INT8, in percentage points of the labelled images
    agreement    share of images on which INT8 and FP32 give the same class; needs no labels

A budget holds when the measured figure meets it. Whether that is more than luck is another question, which the interval
answers: it is *shown* when even the interval's worse end meets the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from runtimes.metrics.confidence_interval import (
    CONFIDENCE,
    images_to_show,
    paired_drop_interval,
    wilson_interval,
)
from runtimes.metrics.kl_divergence import kl_divergence

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted on some images; two tallies of different images add up.

    Attributes:
        num_images: Images seen.
        num_equal: Images on which both models give the same class.
        num_labelled: Images that came with a label: all of them, or none.
        num_right: Labelled images that FP32 answers rightly.
        losses: Labelled images that only FP32 answers rightly.
        gains: Labelled images that only INT8 answers rightly.
        divergence: Sum over the images of KL(softmax FP32 || softmax INT8), in nats.
    """

    num_images: int = 0
    num_equal: int = 0
    num_labelled: int = 0
    num_right: int = 0
    losses: int = 0
    gains: int = 0
    divergence: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Return both together."""
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def agreement(self) -> float:
        """Share of images with equal answers."""
        return self.num_equal / self.num_images

    @property
    def top1_drop_pp(self) -> float | None:
        """Right answers lost, in percentage points; None without labels."""
        return 100.0 * (self.losses - self.gains) / self.num_labelled if self.num_labelled else None

    @property
    def kl(self) -> float:
        """Mean divergence in nats."""
        return max(0.0, self.divergence / self.num_images)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `report.json` holds them."""
        labelled = self.num_labelled
        return {
            "num_images": self.num_images,
            "agreement": self.agreement,
            "top1_drop_pp": self.top1_drop_pp,
            "top1_reference": self.num_right / labelled if labelled else None,
            "top1_candidate": (self.num_right - self.losses + self.gains) / labelled if labelled else None,
            "losses": self.losses if labelled else None,
            "gains": self.gains if labelled else None,
            "kl": self.kl,
        }


def tally(reference: Logits, candidate: Logits, labels: Sequence[int] | None = None) -> Tally:
    """Count one batch.

    Args:
        reference: FP32 logits [n, num_classes].
        candidate: INT8 logits, same shape.
        labels: Class index per image, or None.

    Raises:
        CalibrationError: If a logit is NaN or Inf.
    """
    trusted, tested = reference.astype(np.float64), candidate.astype(np.float64)
    if not (np.isfinite(trusted).all() and np.isfinite(tested).all()):
        raise CalibrationError("the model gives NaN or Inf on images that the budget is measured on")
    winners = trusted.argmax(axis=1), tested.argmax(axis=1)
    counted = Tally(
        num_images=len(trusted),
        num_equal=int(np.sum(winners[0] == winners[1])),
        divergence=float(kl_divergence(trusted, tested).sum()),
    )
    if labels is None:
        return counted
    right = [winner == np.asarray(labels) for winner in winners]
    return replace(
        counted,
        num_labelled=len(trusted),
        num_right=int(right[0].sum()),
        losses=int(np.sum(right[0] & ~right[1])),
        gains=int(np.sum(right[1] & ~right[0])),
    )


@dataclass(frozen=True, slots=True)
class AccuracyBudget:
    """What INT8 must keep; both, where both are given.

    Attributes:
        max_top1_drop_pp: Largest top-1 drop in percentage points, 0 to 100, or None.
        min_agreement: Least share of equal answers, above 0, at most 1, or None.
    """

    max_top1_drop_pp: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        if self.max_top1_drop_pp is None and self.min_agreement is None:
            raise ValueError("a budget needs max_top1_drop_pp, min_agreement or both")
        if self.max_top1_drop_pp is not None and not 0 <= self.max_top1_drop_pp < 100:
            raise ValueError(f"got a top-1 drop of {self.max_top1_drop_pp}, expected percentage points from 0 to 100")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise ValueError(f"got an agreement of {self.min_agreement}, expected a share above 0, at most 1")

    def holds(self, measured: Tally) -> bool:
        """Tell whether the measured figures meet the budget.

        Raises:
            ValueError: If it asks for labels and there are none, or no image was measured.
        """
        if not measured.num_images:
            raise ValueError("no image was measured; a budget cannot hold on nothing")
        if self.min_agreement is not None and measured.agreement < self.min_agreement:
            return False
        if self.max_top1_drop_pp is None:
            return True
        if measured.top1_drop_pp is None:
            raise ValueError("a top-1 budget needs images with labels")
        return measured.top1_drop_pp <= self.max_top1_drop_pp + 1e-9  # 100 * 1 / 200 is not 0.5 to the last bit

    @property
    def images_to_show_it(self) -> float:
        """Images needed to show that it holds, at best: not one answer may differ. Infinite for a budget of nothing."""
        allowed = [1 - self.min_agreement] if self.min_agreement is not None else []
        if self.max_top1_drop_pp is not None:
            allowed.append(self.max_top1_drop_pp / 100)
        return images_to_show(min(allowed))

    def in_words(self) -> str:
        """Return the budget for messages."""
        words = [] if self.min_agreement is None else [f"agreement with FP32 at least {percent(self.min_agreement)}"]
        if self.max_top1_drop_pp is not None:
            words.append(f"top-1 drop at most {self.max_top1_drop_pp:g} points")
        return " and ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the limits."""
        return {"max_top1_drop_pp": self.max_top1_drop_pp, "min_agreement": self.min_agreement}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a measurement shows of a budget.

    Attributes:
        confidence: Of each interval, both ends together.
        num_looks: How often a result was compared with the budget on these images; each look takes its share of the
            error allowed (Bonferroni), so that many tries do not make luck look like proof.
        agreement: Interval of the agreement.
        top1_drop_pp: Interval of the drop, or None without labels.
        shown: Whether the worse ends meet the budget too.
        needed: Images needed to show it, at best; infinite for a budget of nothing.
    """

    confidence: float
    num_looks: int
    agreement: tuple[float, float]
    top1_drop_pp: tuple[float, float] | None
    shown: bool
    needed: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields; an infinite number of images is None."""
        return {
            "confidence": CONFIDENCE,
            "num_looks": self.num_looks,
            "agreement_interval": list(self.agreement),
            "top1_drop_pp_interval": None if self.top1_drop_pp is None else list(self.top1_drop_pp),
            "shown": self.shown,
            "images_needed_to_show_it": None if self.needed == float("inf") else int(self.needed),
        }


def evidence(budget: AccuracyBudget, measured: Tally, num_looks: int = 1) -> Evidence:
    """Return what `measured` shows of `budget`.

    Args:
        budget: The limits.
        measured: On images that calibrated nothing.
        num_looks: How many results were compared with the budget on these images, this one included; >= 1.
    """
    confidence = 1 - (1 - CONFIDENCE) / num_looks
    agreement = wilson_interval(measured.num_equal, measured.num_images, confidence)
    drop = None
    if measured.num_labelled:
        low, high = paired_drop_interval(measured.losses, measured.gains, measured.num_labelled, confidence)
        drop = (100 * low, 100 * high)
    shown = budget.min_agreement is None or agreement[0] >= budget.min_agreement
    if budget.max_top1_drop_pp is not None:
        shown = shown and drop is not None and drop[1] <= budget.max_top1_drop_pp
    return Evidence(confidence, num_looks, agreement, drop, shown, budget.images_to_show_it)


def figures_in_words(budget: AccuracyBudget, measured: Tally, found: Evidence | None = None) -> str:
    """Return the figures that the budget is about, with their intervals where given."""
    words = []
    if budget.min_agreement is not None:
        low_high = "" if found is None else f" ({' to '.join(percent(end) for end in found.agreement)})"
        words.append(f"agreement {percent(measured.agreement)}{low_high}")
    if budget.max_top1_drop_pp is not None and measured.top1_drop_pp is not None:
        ends = None if found is None else found.top1_drop_pp
        low_high = "" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})"
        words.append(f"top-1 drop {measured.top1_drop_pp:.2f} points{low_high}")
    return f"{', '.join(words)} on {measured.num_images} images"


def evidence_in_words(budget: AccuracyBudget, measured: Tally, found: Evidence) -> str:
    """Return whether the images show the budget, and if not, why not."""
    if found.shown:
        return f"shown at {CONFIDENCE:.0%} confidence"
    if found.needed == float("inf"):
        return "it cannot be shown with any number of images, only not contradicted: it allows no change at all"
    if measured.num_images < found.needed:
        return (
            f"not contradicted, but {measured.num_images} images are too few to show it: that takes "
            f"{found.needed:.0f} at least, even with no answer changed"
        )
    return f"not contradicted, not shown either: the interval at {CONFIDENCE:.0%} confidence reaches beyond it"


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as a budget has: 0.995 is 99.5%."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"
