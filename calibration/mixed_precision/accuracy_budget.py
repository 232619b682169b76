"""The accuracy that INT8 may lose, and what measured images say about it.

    top-1 drop   right answers lost by INT8, in percentage points of the labelled images
    agreement    share of images on which INT8 and FP32 give the same class; needs no labels

A budget holds when the measured figure meets it. Whether that is more than luck is another question, which the interval
answers: it is *shown* when even the interval's worse end meets the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtimes.io.json_fields import JsonFields
from runtimes.metrics.confidence_interval import CONFIDENCE, images_to_show, wilson_interval
from runtimes.metrics.logit_comparison import LabelledResult, LogitComparison


@dataclass(frozen=True, slots=True)
class AccuracyBudget(JsonFields):
    """Accuracy that INT8 must keep; both limits, where both are given.

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
        for given in (self.max_top1_drop_pp, self.min_agreement):
            if given is not None and not isinstance(given, (int, float)):
                raise TypeError(f"got {given!r} as an accuracy budget, expected a number")
        if self.max_top1_drop_pp is not None and not 0 <= self.max_top1_drop_pp < 100:
            raise ValueError(f"got a top-1 drop of {self.max_top1_drop_pp}, expected percentage points from 0 to 100")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise ValueError(f"got an agreement of {self.min_agreement}, expected a share above 0, at most 1")

    def holds(self, measured: LogitComparison) -> bool:
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


@dataclass(frozen=True, slots=True)
class BudgetEvidence:
    """Evidence for a budget from one measurement.

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


def evidence(budget: AccuracyBudget, measured: LogitComparison, num_looks: int = 1) -> BudgetEvidence:
    """Return what `measured` shows of `budget`, with which `num_looks` results, >= 1, were compared on these images."""
    confidence = 1 - (1 - CONFIDENCE) / num_looks
    agreement = wilson_interval(measured.num_equal, measured.num_images, confidence)
    drop = None
    if measured.labelled is not None:
        drop = measured.labelled.drop_interval_pp(confidence)
    shown = budget.min_agreement is None or agreement[0] >= budget.min_agreement
    if budget.max_top1_drop_pp is not None:
        shown = shown and drop is not None and drop[1] <= budget.max_top1_drop_pp
    return BudgetEvidence(confidence, num_looks, agreement, drop, shown, budget.images_to_show_it)


def figures_in_words(budget: AccuracyBudget, measured: LogitComparison, found: BudgetEvidence | None = None) -> str:
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


def evidence_in_words(budget: AccuracyBudget, measured: LogitComparison, found: BudgetEvidence) -> str:
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


def joined(first: LogitComparison, second: LogitComparison) -> LogitComparison:
    """Return the counts of two comparisons on different images together: all that a budget looks at."""
    num_images = first.num_images + second.num_images
    labelled = None
    if first.labelled is not None and second.labelled is not None:
        parts = (first.labelled, second.labelled)
        labelled = LabelledResult(
            top1=_mean([(part.top1, part.num_images) for part in parts]),
            top5=_mean([(part.top5, part.num_images) for part in parts]),
            losses=sum(part.losses for part in parts),
            gains=sum(part.gains for part in parts),
            num_images=sum(part.num_images for part in parts),
        )
    return LogitComparison(
        num_images=num_images,
        num_classes=first.num_classes,
        kl=(first.kl * first.num_images + second.kl * second.num_images) / num_images,
        num_equal=first.num_equal + second.num_equal,
        labelled=labelled,
    )


def _mean(shares: list[tuple[tuple[float, float], int]]) -> tuple[float, float]:
    """Return the shares of both sides over all images; counts are whole, so they are rounded to whole ones."""
    total = sum(count for _, count in shares)
    right = [sum(round(share[side] * count) for share, count in shares) for side in (0, 1)]
    return right[0] / total, right[1] / total


def budget_figures(measured: LogitComparison) -> dict[str, Any]:
    """Return what was measured of a budget as `report.json` holds it."""
    labelled = measured.labelled
    return {
        "num_images": measured.num_images,
        "agreement": measured.agreement,
        "top1_drop_pp": measured.top1_drop_pp,
        "top1_reference": measured.top1_reference,
        "top1_candidate": measured.top1_candidate,
        "losses": None if labelled is None else labelled.losses,
        "gains": None if labelled is None else labelled.gains,
        "kl": measured.kl,
    }


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as a budget has: 0.995 is 99.5%."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"
