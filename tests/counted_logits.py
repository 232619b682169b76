"""Comparisons of logits with given counts, as a meter would have found them."""

from __future__ import annotations

from runtimes.metrics.logit_comparison import LabelledResult, LogitComparison


def counted(
    num_images: int = 0,
    num_equal: int = 0,
    num_labelled: int = 0,
    num_right: int = 0,
    losses: int = 0,
    gains: int = 0,
    divergence: float = 0.0,
) -> LogitComparison:
    """Return the comparison of so many images; `num_right` are the reference's right answers."""
    labelled = None
    if num_labelled:
        top1 = (num_right / num_labelled, (num_right - losses + gains) / num_labelled)
        labelled = LabelledResult(top1, (1.0, 1.0), losses, gains, num_labelled)
    kl = divergence / num_images if num_images else 0.0
    return LogitComparison(num_images=num_images, num_classes=4, num_equal=num_equal, kl=kl, labelled=labelled)
