"""How long one call takes: warm-up, then single calls timed one by one, median and spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall time of one call, in milliseconds: median, 10th and 90th percentile over `num_runs` calls."""

    p50_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int


def measure_latency(
    call: Callable[[], object], *, warm_up: int = 3, min_runs: int = 10, max_runs: int = 50, budget_s: float = 1.0
) -> Latency:
    """Time `call`, which returns when its work is done, for `budget_s`: `min_runs` times at least, `max_runs` at most.

    Raises:
        ValueError: If `min_runs` is below 1: a median needs a call.
    """
    if min_runs < 1:
        raise ValueError(f"min_runs: got {min_runs}, expected at least 1")
    for _ in range(warm_up):
        call()
    times: list[float] = []
    while len(times) < min_runs or (len(times) < max_runs and sum(times) < budget_s):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    p10, p50, p90 = (1000.0 * float(value) for value in np.percentile(times, (10, 50, 90)))
    return Latency(p50_ms=p50, p10_ms=p10, p90_ms=p90, num_runs=len(times))
