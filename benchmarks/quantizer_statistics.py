"""How far quantized logits are from FP32's, and whether a lost image is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.metrics.logit_meter import LogitMeter

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Quantized logits beside FP32's, on images that did not calibrate.

    Attributes:
        num_images: Images compared.
        sqnr_db: As `runtimes.metrics.logit_meter` defines it; None when the logits are equal.
        agreement: Share of images with equal argmax, 0 to 1.
        kl_softmax: Mean over the images of KL(softmax(FP32) || softmax(quantized)), in nats.
        top1_float: Share of images FP32 gets right, None without labels.
        top1: Share of images the quantized model gets right, None without labels.
        num_lost: Images FP32 gets right and the quantized model does not, None without labels.
        num_gained: The other way round.
        p_value: Exact two-sided p of McNemar's test: how often chance alone splits the changed images so unevenly.
    """

    num_images: int
    sqnr_db: float | None
    agreement: float
    kl_softmax: float
    top1_float: float | None
    top1: float | None
    num_lost: int | None
    num_gained: int | None
    p_value: float | None

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def compare_logits(reference: Logits, candidate: Logits, labels: Sequence[int] | None) -> Accuracy:
    """Compare logits of the same images.

    Args:
        reference: FP32's, float32 [N, num_classes].
        candidate: The quantized model's, same shape.
        labels: Class of each image, [N], or None.

    Raises:
        ValueError: If shapes or lengths differ.
        RuntimeAdapterError: If either side holds NaN or Inf.
    """
    meter = LogitMeter(strict=True)
    meter.add(reference, candidate, labels=labels)
    report = meter.report()
    lost = gained = p_value = None
    if labels is not None:
        truth = np.asarray(labels)
        right = [logits.argmax(axis=1) == truth for logits in (reference, candidate)]
        lost, gained = int(np.sum(right[0] & ~right[1])), int(np.sum(~right[0] & right[1]))
        p_value = mcnemar_exact_p(lost, gained)
    return Accuracy(
        num_images=report.num_images,
        sqnr_db=report.sqnr_db,
        agreement=report.agreement,
        kl_softmax=mean_kl_softmax(reference, candidate),
        top1_float=report.top1_reference,
        top1=report.top1_candidate,
        num_lost=lost,
        num_gained=gained,
        p_value=p_value,
    )


def mean_kl_softmax(reference: Logits, candidate: Logits) -> float:
    """Return the mean over images of KL(softmax(reference) || softmax(candidate)), in nats.

    Args:
        reference: float [N, num_classes].
        candidate: Same shape.
    Source: Kullback and Leibler 1951; in float64, from log-softmax, so that no probability underflows to 0.
    """
    trusted, tested = _log_softmax(reference), _log_softmax(candidate)
    return float(np.mean(np.sum(np.exp(trusted) * (trusted - tested), axis=1)))


def expected_agreement(reference: Logits, candidate: Logits, less_db: float = 0.0) -> float:
    """Return the share of images whose best class is expected to stay the same, by FP32's margins, 0 to 1.

    An image's margin m is what its best logit is above the second. It is lost where the error of this difference is
    larger: were these errors normal, of the standard deviation s that all images show, with the probability
    erfc(m / (s sqrt(2))) / 2. Third classes are left out, so that this is an upper bound.

    Args:
        reference: FP32's, float [N, at least 2 classes].
        candidate: Same shape, not equal.
        less_db: By how much lower the noise is to be than the candidate's, in dB.
    """
    images = np.arange(len(reference))
    second, best = np.argsort(reference, axis=1)[:, -2:].T
    margins, kept = (
        values[images, best].astype(np.float64) - values[images, second] for values in (reference, candidate)
    )
    deviation = float(np.sqrt(np.mean(np.square(kept - margins)))) * 10 ** (-less_db / 20)
    return 1 - float(np.mean([math.erfc(margin / (deviation * math.sqrt(2))) / 2 for margin in margins]))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    return result


def mcnemar_exact_p(num_lost: int, num_gained: int) -> float:
    """Return the two-sided exact p of McNemar's test.

    Under chance alone each changed image is lost or gained with probability 1/2, so p = min(1, 2 P(X <= min(lost,
    gained))) with X ~ Binomial(lost + gained, 1/2).

    Args:
        num_lost: Images only the first model gets right, >= 0.
        num_gained: Images only the second gets right, >= 0.
    Source: McNemar 1947, Psychometrika 12; the exact form as in statsmodels' `mcnemar(exact=True)`.
    """
    num_changed = num_lost + num_gained
    tail = sum(math.comb(num_changed, count) for count in range(min(num_lost, num_gained) + 1))
    # A quotient of whole numbers: 2 ** num_changed overflows a float from 1024 on, the quotient does not.
    return min(1.0, float(2 * tail / 2**num_changed))
