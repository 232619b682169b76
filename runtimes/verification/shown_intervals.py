"""The intervals that pages and summaries show beside a share: those by which the gates judged it, not a second kind.

A gate is about one end only, at 95 %; that end is the end of the two-sided 90 % interval. The report's JSON also holds
the two-sided 95 % intervals, for whoever compares runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtimes.metrics.confidence_interval import paired_drop_interval, wilson_interval
from runtimes.verification.gates import INTERVAL_CONFIDENCE


def agreement_interval(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the agreement, 0 to 1; None where not every answer is finite, or there is none."""
    num_images, flips = metrics["num_images"], metrics["num_flips"]
    broken = metrics["num_nonfinite_reference"] or metrics["num_nonfinite_candidate"]
    if flips is None or broken or not num_images:
        return None
    return wilson_interval(num_images - flips, num_images, INTERVAL_CONFIDENCE)


def drop_interval_pp(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the drop of top-1 in percentage points; None without labels."""
    broken = metrics["num_nonfinite_reference"] or metrics["num_nonfinite_candidate"]
    if metrics["top1_drop_pp"] is None or broken or not metrics["num_images"]:
        return None
    low, high = paired_drop_interval(metrics["losses"], metrics["gains"], metrics["num_images"], INTERVAL_CONFIDENCE)
    return 100 * low, 100 * high
