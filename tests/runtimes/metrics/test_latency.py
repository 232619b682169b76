"""measure_latency with a clock that the test moves."""

from __future__ import annotations

import pytest

from runtimes.metrics import latency
from runtimes.metrics.latency import Latency, measure_latency


class Clock:
    """Each call of `work` takes the next of the given seconds, the last one for ever."""

    def __init__(self, *seconds: float):
        self.now = 100.0
        self.seconds = list(seconds)
        self.calls = 0

    def work(self) -> None:
        self.calls += 1
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    def started(*seconds):
        made = Clock(*seconds)
        monkeypatch.setattr(latency.time, "perf_counter", made.perf_counter)
        return made

    return started


def test_median_and_spread_in_milliseconds(clock):
    made = clock(*(value / 1000 for value in (9, 9, 9, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)))
    result = measure_latency(made.work, warm_up=3, min_runs=11, max_runs=11)
    assert result.num_runs == 11
    assert result.p50_ms == pytest.approx(6.0)
    assert result.p10_ms == pytest.approx(2.0)
    assert result.p90_ms == pytest.approx(10.0)


def test_warm_up_is_not_timed(clock):
    made = clock(50.0, 50.0, 0.001)
    result = measure_latency(made.work, warm_up=2, min_runs=5, max_runs=5)
    assert result == Latency(
        p50_ms=pytest.approx(1.0), p10_ms=pytest.approx(1.0), p90_ms=pytest.approx(1.0), num_runs=5
    )
    assert made.calls == 7


def test_slow_calls_stop_at_the_minimum(clock):
    """The warm-up does not count against the budget, and the minimum is reached whatever it costs."""
    made = clock(10.0)
    assert measure_latency(made.work, warm_up=3, min_runs=4, budget_s=2.0).num_runs == 4
    assert made.calls == 7


def test_the_budget_ends_it(clock):
    made = clock(0.125)
    assert measure_latency(made.work, min_runs=2, max_runs=200, budget_s=2.0).num_runs == 16


def test_fast_calls_stop_at_the_maximum(clock):
    made = clock(1e-6)
    assert measure_latency(made.work, min_runs=2, max_runs=30, budget_s=2.0).num_runs == 30
    assert made.calls == 33


def test_the_defaults(clock):
    made = clock(0.05)
    assert measure_latency(made.work).num_runs == pytest.approx(20, abs=1)
    assert made.calls == measure_latency(clock(0.05).work).num_runs + 3
    assert measure_latency(clock(1e-6).work).num_runs == 50
    assert measure_latency(clock(10.0).work).num_runs == 10


def test_the_minimum_wins_over_the_maximum(clock):
    assert measure_latency(clock(0.1).work, min_runs=5, max_runs=2).num_runs == 5


def test_no_run_is_refused(clock):
    made = clock(0.1)
    with pytest.raises(ValueError, match="min_runs: got 0"):
        measure_latency(made.work, min_runs=0, max_runs=0)
    assert made.calls == 0


def test_errors_of_the_call_come_through():
    def fails():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        measure_latency(fails)


def test_real_clock():
    assert 0 < measure_latency(lambda: sum(range(1000)), max_runs=20).p50_ms < 100
