"""Timing in turns: what is measured by a clock of our own, and that noise is never called a difference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from runtimes.metrics.interleaved_timing import MIN_ROUNDS, Comparison, compare_timings, time_in_turns, timing_of


class Clock:
    """A clock that only the calls move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, *seconds):
        times = itertools.cycle(seconds)

        def call():
            self.now += next(times)

        return call


def test_percentiles_and_spread_by_hand():
    timing = timing_of([[0.001, 0.002, 0.003], [0.004, 0.005, 0.006]])
    assert timing.p50_ms == pytest.approx(3.5)
    assert timing.p90_ms == pytest.approx(5.5)
    assert timing.round_p50_ms == pytest.approx((2.0, 5.0))
    assert timing.spread == pytest.approx(3 / 3.5)
    assert timing.num_calls == 6


def test_each_has_its_turn_in_each_round_and_warms_up_untimed():
    clock, order = Clock(), []

    def call(name, seconds):
        def work():
            order.append(name)
            clock.now += seconds

        return work

    timings = time_in_turns(
        {"a": call("a", 0.1), "b": call("b", 0.2)}, rounds=3, seconds=0.0, min_calls=1, warm_up=2, clock=clock
    )
    assert "".join(order) == "aabb" + "ab" + "ba" + "ab"
    assert timings["a"].round_p50_ms == pytest.approx((100,) * 3)
    assert timings["b"].p50_ms == pytest.approx(200)


def test_a_turn_lasts_as_long_as_it_is_told():
    clock = Clock()
    timings = time_in_turns({"a": clock.taking(0.1)}, rounds=2, seconds=1.0, clock=clock)
    assert timings["a"].num_calls == pytest.approx(20, abs=2)


def test_a_difference_in_every_round_is_named():
    clock = Clock()
    timings = time_in_turns({"a": clock.taking(0.1), "b": clock.taking(0.2)}, seconds=0.0, clock=clock)
    slower, faster = compare_timings(timings["b"], timings["a"]), compare_timings(timings["a"], timings["b"])
    assert slower.differs
    assert str(slower) == "2.00 x as slow (2.00 to 2.00)"
    assert str(faster) == "2.00 x as fast (2.00 to 2.00)"


@pytest.mark.parametrize(
    "comparison",
    [
        Comparison(1.10, 0.99, 1.30, MIN_ROUNDS),
        Comparison(0.90, 0.70, 1.01, MIN_ROUNDS),
        Comparison(0.50, 0.40, 0.60, MIN_ROUNDS - 1),
    ],
)
def test_what_lies_in_the_noise_or_was_tried_too_seldom_is_not(comparison):
    assert not comparison.differs
    assert str(comparison) == "no difference beyond the noise"


def test_equal_candidates_rarely_seem_to_differ():
    """2 / 2^7 of the time, as the sign test has it; seed 0."""
    random = np.random.default_rng(0)

    def noisy():
        return timing_of(random.normal(1.0, 0.05, (MIN_ROUNDS, 9)))

    wrong = sum(compare_timings(noisy(), noisy()).differs for _ in range(1000))
    assert wrong <= 40


def test_refused():
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        time_in_turns({})
    with pytest.raises(ValueError, match="1 and 2 rounds"):
        compare_timings(timing_of([[1.0]]), timing_of([[1.0], [1.0]]))
