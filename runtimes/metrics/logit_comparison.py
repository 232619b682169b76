"""Result of comparing logits: plain values, in JSON as the report holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runtimes.io.json_fields import JsonFields
from runtimes.metrics.confidence_interval import CONFIDENCE, mcnemar_exact, paired_drop_interval, wilson_interval

Ranking = tuple[tuple[int, float], ...]
"""Classes with their logits, best first."""


@dataclass(frozen=True, slots=True)
class Flip(JsonFields):
    """An image that the candidate answers otherwise than the reference.

    Attributes:
        margin: The reference's largest logit minus its second largest, >= 0: how sure it was.
        reference_top3: The reference's three best classes with their logits (fewer of fewer classes).
        candidate_top3: The candidate's.
    """

    image: str
    label: int | None
    reference_class: int
    candidate_class: int
    margin: float
    reference_top3: Ranking
    candidate_top3: Ranking


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The images of one class: the label's, or the reference's answer where there are no labels to be right about."""

    index: int
    num_images: int
    num_equal: int
    right_reference: int | None = None
    right_candidate: int | None = None


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """Shares of labelled images, (reference, candidate); `losses` and `gains`: those that only one side has right."""

    top1: tuple[float, float]
    top5: tuple[float, float]
    losses: int
    gains: int
    num_images: int

    @property
    def top1_drop_pp(self) -> float:
        """Top-1 lost in percentage points."""
        return 100.0 * (self.losses - self.gains) / self.num_images

    def drop_interval_pp(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return Tango's two-sided interval of the drop in percentage points."""
        low, high = paired_drop_interval(self.losses, self.gains, self.num_images, confidence)
        return 100 * low, 100 * high

    @property
    def mcnemar_p(self) -> float:
        """Exact two-sided p-value of "the two are equally often right"."""
        return mcnemar_exact(self.losses, self.gains)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitComparison:
    """A candidate's logits beside the reference's.

    Attributes:
        num_images: Images compared, also those with NaN or Inf.
        nonfinite: Images with a NaN or Inf, (reference, candidate). They are in no other figure.
        max_abs_diff: Largest |reference - candidate|.
        mean_abs_diff: Mean |reference - candidate|.
        sqnr_db: 10 log10(sum reference^2 / sum difference^2) in dB; None where it is no finite number.
        cosine: Of the angle between both, over all logits; None where one of them is zero.
        kl: Mean KL(softmax reference || softmax candidate) in nats.
        num_equal: Images with equal answers.
        top5_overlap: Mean share of the reference's five best classes that are among the candidate's five best.
        flips: The images with different answers, the surest reference first; at most as many as the meter keeps.
        classes: Results per class, for classes that occur.
    """

    num_images: int = 0
    num_classes: int = 0
    nonfinite: tuple[int, int] = (0, 0)
    max_abs_diff: float = 0.0
    mean_abs_diff: float = 0.0
    max_abs_reference: float = 0.0
    sqnr_db: float | None = None
    cosine: float | None = None
    kl: float = 0.0
    num_equal: int = 0
    top5_overlap: float = 0.0
    flips: tuple[Flip, ...] = field(default=(), repr=False)
    classes: tuple[ClassResult, ...] = field(default=(), repr=False)
    labelled: LabelledResult | None = None

    @property
    def num_finite(self) -> int:
        """Images that the figures are about."""
        return self.num_images - sum(self.nonfinite)

    @property
    def num_flips(self) -> int:
        """Images with different answers, whether kept in `flips` or not."""
        return self.num_finite - self.num_equal

    @property
    def exact(self) -> bool:
        """Whether every logit is equal."""
        return self.num_finite > 0 and self.max_abs_diff == 0.0

    @property
    def has_classes(self) -> bool:
        """Whether there is a best class: one number has none, and its softmax is 1."""
        return self.num_classes != 1

    @property
    def agreement(self) -> float:
        """Share of images with equal answers, 0 to 1; 0 without images, on which nothing agreed."""
        return self.num_equal / self.num_finite if self.num_finite else 0.0

    @property
    def top1_reference(self) -> float | None:
        """Share of images that the reference answers rightly; None without labels."""
        return None if self.labelled is None else self.labelled.top1[0]

    @property
    def top1_candidate(self) -> float | None:
        """Share of images that the candidate answers rightly; None without labels."""
        return None if self.labelled is None else self.labelled.top1[1]

    @property
    def top1_drop_pp(self) -> float | None:
        """Top-1 lost by the candidate in percentage points (negative: gained); None without labels."""
        return None if self.labelled is None else self.labelled.top1_drop_pp

    @property
    def relative_max_diff(self) -> float | None:
        """Largest difference as a share of the largest |reference|; None where that is zero and they differ."""
        if self.max_abs_diff == 0.0:
            return 0.0
        return self.max_abs_diff / self.max_abs_reference if self.max_abs_reference else None

    @property
    def max_flip_margin(self) -> float:
        """Margin of the surest answer that flipped; 0 without flips."""
        return self.flips[0].margin if self.flips else 0.0

    def agreement_interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return Wilson's two-sided interval of the agreement; None without images."""
        return wilson_interval(self.num_equal, self.num_finite, confidence) if self.num_finite else None

    def parity_json(self) -> dict[str, Any]:
        """Return the figures that an export's report and manifest hold of a file."""
        figures = self._named("num_images", "agreement", "max_abs_diff", "max_abs_reference", "sqnr_db")
        if not self.has_classes:
            figures["agreement"] = None
        return figures | self._named("top1_reference", "top1_candidate", "top1_drop_pp")

    def to_json(self) -> dict[str, Any]:
        """Return `metrics` of the report: figures, None where there is no such number."""
        usable = self.num_finite > 0 and not any(self.nonfinite)
        interval = self.agreement_interval()
        figures = {
            **self._named("max_abs_diff", "mean_abs_diff", "max_abs_reference", "relative_max_diff"),
            **self._named("sqnr_db", "cosine", "kl", "agreement"),
            "agreement_interval": None if interval is None else list(interval),
            **self._named("top5_overlap", "num_flips", "max_flip_margin"),
        }
        if not self.has_classes:
            named = ("kl", "agreement", "agreement_interval", "top5_overlap", "num_flips", "max_flip_margin")
            figures |= dict.fromkeys(named)
        return {
            **self._named("num_images", "num_classes"),
            "num_nonfinite_reference": self.nonfinite[0],
            "num_nonfinite_candidate": self.nonfinite[1],
            "exact": self.exact and usable,
            **(figures if usable else dict.fromkeys(figures)),
            **_accuracy(self.labelled if usable else None),
        }

    def _named(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


_ACCURACY = (
    *("top1_reference", "top1_candidate", "top5_reference", "top5_candidate", "losses", "gains"),
    *("top1_drop_pp", "top1_drop_interval_pp", "mcnemar_p"),
)


def _accuracy(labelled: LabelledResult | None) -> dict[str, Any]:
    if labelled is None:
        return dict.fromkeys(_ACCURACY)
    counts = (*labelled.top1, *labelled.top5, labelled.losses, labelled.gains)
    drop = (labelled.top1_drop_pp, list(labelled.drop_interval_pp()), labelled.mcnemar_p)
    return dict(zip(_ACCURACY, (*counts, *drop), strict=True))
