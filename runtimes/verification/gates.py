"""Gates: a threshold per metric, and what the images show of it.

Metrics of the logits themselves (`sqnr_db`, `relative_max_diff`, ...) are what they are: pass or fail. A share of
images (`agreement`, `top1_drop_pp`) is a claim about images that were not seen, so its confidence interval decides:

    pass          the claim is shown: the interval's worse end meets the threshold
    fail          it is refuted: the interval's better end does not meet it
    inconclusive  neither: too few images, or too close; a result of its own, never a pass

The claim is about one end only, at 95 % confidence: the end of the 90 % interval (`metrics.confidence_interval`).
A threshold at its limit (agreement 1, drop 0) no number of images can show; it is taken as one about these images only.

NaN, Inf and an empty set fail every gate.

Defaults, per precision of the file:

    fp32   relative_max_diff <= 1e-4    what an export must meet too (`exporter.tracing.check_export`)
    fp16   sqnr_db >= 40                FP16 keeps 11 bits; ResNet-18 and ResNet-20 measure 60 and 61 dB
           agreement >= 0.99
    int8   sqnr_db >= 20                the good INT8 files of docs/int8.md measure 24 to 35 dB, those that lost
                                        accuracy 11 and 18 dB
           agreement >= 0.95            those agree on 98 to 100 %, these on 89 and 95 %
           top1_drop_pp <= 1.0          with labels only
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial

from runtimes.io.json_fields import JsonFields
from runtimes.metrics.confidence_interval import images_to_show
from runtimes.metrics.logit_comparison import LogitComparison

ONE_SIDED_CONFIDENCE = 0.95
INTERVAL_CONFIDENCE = 2 * ONE_SIDED_CONFIDENCE - 1
"""Of the two-sided interval whose ends are the one-sided bounds."""


class Verdict(Enum):
    """Outcome of a gate."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"

    @property
    def exit_code(self) -> int:
        """0 for a pass, 1 for a failure, 3 for everything that shows nothing (2 is wrong use)."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(self, 3)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of several: fail if one fails, inconclusive if one is or none passes, else pass."""
    found = set(verdicts)
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.PASS if Verdict.PASS in found and Verdict.INCONCLUSIVE not in found else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class Metric:
    """Metric that a gate can be about.

    Attributes:
        largest: Whether the threshold is the largest value allowed, else the least.
        allowed: Least and largest threshold that makes sense.
        words: The metric in a sentence.
        unit: Of threshold and measured value: "", " dB" or " points".
    """

    largest: bool
    allowed: tuple[float, float]
    words: str
    unit: str


METRICS: Mapping[str, Metric] = {
    "relative_max_diff": Metric(True, (0, math.inf), "largest |difference| over largest |logit|", ""),
    "max_abs_diff": Metric(True, (0, math.inf), "largest |difference|", ""),
    "mean_abs_diff": Metric(True, (0, math.inf), "mean |difference|", ""),
    "sqnr_db": Metric(False, (-math.inf, math.inf), "SQNR", " dB"),
    "cosine": Metric(False, (-1, 1), "cosine", ""),
    "kl": Metric(True, (0, math.inf), "KL divergence of the softmax in nats", ""),
    "top5_overlap": Metric(False, (0, 1), "overlap of the five best classes", ""),
    "max_flip_margin": Metric(True, (0, math.inf), "margin of the surest answer that flipped", ""),
    "agreement": Metric(False, (0, 1), "agreement", ""),
    "top1_drop_pp": Metric(True, (0, 100), "top-1 drop", " points"),
}
"""Every gate's name, which is the attribute of a `LogitComparison` that it judges; None there is no finite number."""

OF_CLASSES = frozenset(("agreement", "kl", "max_flip_margin", "top1_drop_pp", "top5_overlap"))
"""Gates that ask for several classes: one number is always the best, and its softmax 1."""

DEFAULT_GATES: Mapping[str, Mapping[str, float]] = {
    "fp32": {"relative_max_diff": 1e-4},
    "fp16": {"sqnr_db": 40.0, "agreement": 0.99},
    "int8": {"sqnr_db": 20.0, "agreement": 0.95, "top1_drop_pp": 1.0},
}
"""See the module's first lines."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One threshold.

    Attributes:
        name: One of `METRICS`.
        threshold: In the metric's unit; shares as 0 to 1.
        asked: Whether a person asked for it. A default gate that the images at hand cannot be asked is skipped, one
            that was asked for is inconclusive.
    """

    name: str
    threshold: float
    asked: bool = False

    def __post_init__(self) -> None:
        """Refuse a gate that does not exist or a threshold that makes no sense."""
        if self.name not in METRICS:
            raise ValueError(f"unknown gate {self.name!r}; expected one of {', '.join(METRICS)}")
        low, high = METRICS[self.name].allowed
        if not (low <= self.threshold <= high and math.isfinite(self.threshold)):
            limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g} on"
            wanted = "finite number" if math.isinf(low) else f"number {limits}"
            raise ValueError(f"gate {self.name}: got {self.threshold!r}, expected a {wanted}")


@dataclass(frozen=True, slots=True)
class GateResult(JsonFields):
    """Result of a gate.

    Attributes:
        name: Of the gate, or of another check with a verdict of its own.
        on: What it was judged on: "golden", "val", "photographs", "file" or "baseline".
        threshold: What was asked for; None for checks without a number.
        measured: What was found; None where there is no such number.
        interval: The confidence interval that decided, (low, high), or None.
        unit: Of the three: "", " dB" or " points".
    """

    name: str
    on: str
    verdict: Verdict
    sentence: str
    threshold: float | None = None
    measured: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""


def judge(found: LogitComparison, gates: Iterable[Gate], *, on: str) -> tuple[GateResult, ...]:
    """Return the result of every gate.

    Args:
        found: The comparison.
        gates: What it has to meet.
        on: What the images are: "golden" and "photographs" are too few for shares, so that default gates about shares
            are skipped there unless they fail.
    """
    return tuple(_judge(found, gate, on) for gate in gates)


def _judge(found: LogitComparison, gate: Gate, on: str) -> GateResult:
    metric = METRICS[gate.name]
    measured: float | None = getattr(found, gate.name) if found.num_finite else None
    result = partial(GateResult, gate.name, on, threshold=gate.threshold, unit=metric.unit)
    if problem := _why_nothing_passes(found):
        return result(Verdict.FAIL, problem)
    if gate.name in OF_CLASSES and not found.has_classes:
        verdict = Verdict.INCONCLUSIVE if gate.asked else Verdict.SKIPPED
        return result(verdict, f"{metric.words}: not judged, one number has no best class")
    if gate.name == "agreement" and gate.threshold < 1.0:
        return _judge_share(found, gate, on, found.agreement_interval(INTERVAL_CONFIDENCE), found.num_finite)
    if gate.name == "top1_drop_pp":
        if found.labelled is None:
            verdict = Verdict.INCONCLUSIVE if gate.asked else Verdict.SKIPPED
            return result(verdict, "top-1 drop: not judged, the images have no labels")
        if gate.threshold > 0.0:
            interval = found.labelled.drop_interval_pp(INTERVAL_CONFIDENCE)
            return _judge_share(found, gate, on, interval, found.labelled.num_images)
    if measured is None:
        if gate.name == "sqnr_db" and found.exact:
            return result(Verdict.PASS, "SQNR: every logit is equal, there is no noise")
        return result(Verdict.FAIL, f"{metric.words}: no finite number; one side is all zeros")
    # 100 * 1 / 200 is not 0.5 to the last bit
    meets = measured <= gate.threshold + 1e-12 if metric.largest else measured >= gate.threshold - 1e-12
    relation = ("at most" if metric.largest else "at least") if meets else ("above" if metric.largest else "below")
    sentence = f"{metric.words} {_shown(gate, measured)} is {relation} {_shown(gate, gate.threshold)}"
    return result(Verdict.PASS if meets else Verdict.FAIL, sentence, measured=measured)


def _judge_share(
    found: LogitComparison, gate: Gate, on: str, interval: tuple[float, float] | None, num_images: int
) -> GateResult:
    """Judge a claim about images that were not seen by its interval."""
    metric = METRICS[gate.name]
    measured: float = getattr(found, gate.name)
    assert interval is not None
    result = partial(
        GateResult, gate.name, on, threshold=gate.threshold, measured=measured, interval=interval, unit=metric.unit
    )
    low, high = interval
    worse, better = (high, low) if metric.largest else (low, high)
    ends = f"{_shown(gate, low)} to {_shown(gate, high)}"
    seen = f"{metric.words} {_shown(gate, measured)} on {num_images} images"
    asked = f"{'at most' if metric.largest else 'at least'} {_shown(gate, gate.threshold)}"
    if worse <= gate.threshold if metric.largest else worse >= gate.threshold:
        return result(Verdict.PASS, f"{seen}: {asked} is shown at 95 % confidence ({ends})")
    if better > gate.threshold if metric.largest else better < gate.threshold:
        return result(Verdict.FAIL, f"{seen}: {asked} is refuted at 95 % confidence ({ends})")
    allowed = gate.threshold / 100 if metric.largest else 1 - gate.threshold
    needed = images_to_show(allowed, INTERVAL_CONFIDENCE)
    why = f"that takes {needed:.0f} images at least" if num_images < needed else f"the interval, {ends}, reaches beyond"
    verdict = Verdict.SKIPPED if on in ("golden", "photographs") and not gate.asked else Verdict.INCONCLUSIVE
    return result(verdict, f"{seen}: {asked} is neither shown nor refuted, {why}")


def _why_nothing_passes(found: LogitComparison) -> str:
    if not found.num_images:
        return "no image was compared; an empty comparison proves nothing"
    words = [
        f"the {side} gives NaN or Inf on {count} of {found.num_images} images"
        for side, count in zip(("reference", "candidate"), found.nonfinite, strict=True)
        if count
    ]
    return "; ".join(words)


def _shown(gate: Gate, value: float) -> str:
    if gate.name in ("agreement", "top5_overlap"):
        return f"{100 * value:.2f} %"
    unit = METRICS[gate.name].unit
    return f"{value:.1f}{unit}" if unit == " dB" else f"{value:.2f}{unit}" if unit else f"{value:.3g}"
