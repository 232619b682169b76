"""Pieces side by side: results in their order, a bounded number at a time, errors where they are expected."""

import threading
from functools import partial

import numpy as np
import pytest

from runtimes.ort.adapter import OrtRuntime
from runtimes.side_by_side import MAX_STREAMS, ONE_STREAM, Streams, in_order, pool_of, streams_on

TWO = Streams(2, 1)


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, ONE_STREAM), (2, TWO), (6, Streams(6, 1)), (20, Streams(MAX_STREAMS, 2))]
)
def test_the_cores_are_shared_out(cores, expected):
    assert streams_on(cores) == expected


def test_pieces_run_at_the_same_time_and_come_in_order():
    met = threading.Barrier(2, timeout=10)  # raises unless two pieces are there together

    def piece(number):
        met.wait()
        return number

    assert list(in_order([lambda number=number: piece(number) for number in range(8)], TWO)) == list(range(8))


@pytest.mark.parametrize("streams", [ONE_STREAM, TWO])
def test_no_more_is_begun_than_memory_allows(streams):
    """Pieces are asked for as they are needed, however many there are."""
    begun, done = 0, 0

    def pieces():
        nonlocal begun
        for _ in range(50):
            begun += 1
            assert begun - done <= 2 * streams.count
            yield lambda: None

    for _ in in_order(pieces(), streams):
        done += 1
    assert done == 50


@pytest.mark.parametrize("streams", [ONE_STREAM, TWO])
def test_the_first_error_in_order_is_raised_and_the_rest_dropped(streams):
    ran = []

    def piece(number):
        ran.append(number)
        if number in (2, 3):
            raise ValueError(f"piece {number}")
        return number

    results = in_order((lambda number=number: piece(number) for number in range(100)), streams)
    got = []
    with pytest.raises(ValueError, match="piece 2"):
        got.extend(results)  # what came before the error is kept
    assert got == [0, 1]
    assert len(ran) <= 2 + 2 * streams.count


def test_an_error_where_pieces_are_asked_for_is_raised():
    def pieces():
        yield lambda: 1
        raise OSError("no more images")

    with pytest.raises(OSError, match="no more images"):
        list(in_order(pieces(), TWO))


def test_leaving_early_leaves_no_thread_behind():
    results = in_order((lambda: 1 for _ in range(100)), TWO)
    assert next(results) == 1
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("side_by_side")]


def test_threads_that_stay_serve_again_after_an_error():
    def fails():
        raise ValueError("no")

    with pool_of(TWO) as pool:
        with pytest.raises(ValueError, match="no"):
            list(in_order([fails, *[lambda: 1] * 9], TWO, pool))
        assert list(in_order([lambda: 1, lambda: 2, lambda: 3], TWO, pool)) == [1, 2, 3]
        assert len([thread for thread in threading.enumerate() if thread.name.startswith("side_by_side")]) <= 2


def test_answers_are_the_same_bit_for_bit(small_network):
    """Whole batches in one thread each, and one after the other on all cores."""
    batches = np.array_split(small_network.held_out[:24], 3)
    answers = []
    for streams in (ONE_STREAM, TWO):
        with OrtRuntime(small_network.model, num_threads=streams.threads) as runtime:
            (name,) = runtime.input_specs
            pieces = [partial(runtime.run, {name: batch}) for batch in batches]
            answers.append([next(iter(found.values())) for found in in_order(pieces, streams)])
    np.testing.assert_array_equal(np.concatenate(answers[0]), np.concatenate(answers[1]))
