"""Time several calls against each other, taking turns, and say which differ, or that noise hides whether they do.

A machine drifts: clocks ramp, neighbors come and go. So every candidate is timed in every round, rounds are compared
with themselves (the ratio of two candidates in one round), and a difference is claimed only where all rounds agree on
its sign: with `MIN_ROUNDS` rounds two equal candidates do that by chance 1.6 % of the time. Source: the sign test,
two-sided, p = 2 / 2^rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_ROUNDS = 7
"""Fewer claim nothing."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall times of one call in milliseconds: percentiles of all calls, and the median of each round."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    round_p50_ms: tuple[float, ...]
    num_calls: int

    @property
    def spread(self) -> float:
        """Largest minus smallest round's median, as a share of the median of all."""
        return (max(self.round_p50_ms) - min(self.round_p50_ms)) / self.p50_ms if self.p50_ms else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times as long a candidate takes as a baseline: median, smallest and largest of the rounds' ratios."""

    ratio: float
    smallest: float
    largest: float
    num_rounds: int

    @property
    def differs(self) -> bool:
        """Whether the rounds agree on which of the two is faster."""
        return self.num_rounds >= MIN_ROUNDS and (self.smallest > 1 or self.largest < 1)

    def __str__(self) -> str:
        """Return the form for people; a ratio is named only where it lies beyond the noise."""
        if not self.differs:
            return "no difference beyond the noise"
        if self.ratio < 1:
            return f"{1 / self.ratio:.2f} x as fast ({1 / self.largest:.2f} to {1 / self.smallest:.2f})"
        return f"{self.ratio:.2f} x as slow ({self.smallest:.2f} to {self.largest:.2f})"


def compare_timings(candidate: Timing, baseline: Timing) -> Comparison:
    """Compare two timings of the same rounds.

    Raises:
        ValueError: If they are not of the same rounds.
    """
    if len(candidate.round_p50_ms) != len(baseline.round_p50_ms) or not candidate.round_p50_ms:
        raise ValueError(f"got {len(candidate.round_p50_ms)} and {len(baseline.round_p50_ms)} rounds, expected as many")
    ratios = np.divide(candidate.round_p50_ms, baseline.round_p50_ms)
    return Comparison(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), len(ratios))


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = MIN_ROUNDS,
    seconds: float = 0.5,
    min_calls: int = 3,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each call in each round; every other round goes backwards, so that none is always after the same one.

    Args:
        calls: Name to work that returns when it is done.
        rounds: How often each is timed.
        seconds: How long each is repeated in a round, at least `min_calls` times.
        min_calls: Calls in a round at least.
        warm_up: Untimed calls of each before the first round.
        clock: Seconds; for tests.

    Raises:
        ValueError: If there is nothing to time.
    """
    if not calls or rounds < 1 or min_calls < 1:
        raise ValueError(f"got {len(calls)} calls, {rounds} rounds, {min_calls} min_calls; expected at least 1 of each")
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warm_up):
            call()
    for turn in range(rounds):
        for name in calls if turn % 2 == 0 else reversed(list(calls)):
            times[name].append(_time_one(calls[name], seconds, min_calls, clock))
    return {name: timing_of(found) for name, found in times.items()}


def timing_of(rounds: Sequence[Sequence[float]]) -> Timing:
    """Return the timing of calls in seconds, [rounds][calls]."""
    every = np.concatenate([np.asarray(times, np.float64) for times in rounds]) * 1000
    p50, p90, p99 = (float(value) for value in np.percentile(every, (50, 90, 99)))
    medians = tuple(float(np.median(times)) * 1000 for times in rounds)
    return Timing(p50, p90, p99, medians, len(every))


def _time_one(call: Callable[[], object], seconds: float, min_calls: int, clock: Callable[[], float]) -> list[float]:
    times: list[float] = []
    end = clock() + seconds
    while len(times) < min_calls or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return times
