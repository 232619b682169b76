"""How far a quantized model's answers are from the float model's, over images added batch by batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.metrics.parity import first_output
from runtimes.protocol import Runtime

Logits = NDArray[np.float32]


def output_error(
    reference: Iterable[Logits], candidate: Runtime, batches: Iterable[NDArray[np.float32]]
) -> LogitComparison:
    """Return the distance of `candidate` from known logits, batch by batch, on the same images, float32 [n, C, H, W].

    Raises:
        ValueError: If there is no image.
        RuntimeAdapterError: If a logit is NaN or Inf: then there is no distance.
    """
    meter = LogitMeter(strict=True)
    for logits, images in zip(reference, batches, strict=True):
        meter.add(logits, first_output(candidate, images))
    return meter.report()


def error_json(found: LogitComparison) -> dict[str, Any]:
    """Return the distance as a ranking's report holds it."""
    return {name: getattr(found, name) for name in ("num_images", "sqnr_db", "kl", "agreement")}
