"""Shared arithmetic: the same levels as in one thread, in order, with the errors of either thread, BLAS as it was."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import helper
from threadpoolctl import threadpool_info, threadpool_limits

from calibration.refinement.round_layer import round_layer
from calibration.refinement.workers import alone, workers

SEED = 20261130


def blas_threads() -> set[int]:
    """Of NumPy's BLAS; SciPy has one of its own."""
    of_numpy = [library for library in threadpool_info() if "numpy" in library["filepath"]]
    return {library["num_threads"] for library in of_numpy}


@pytest.fixture
def two_threads():
    """BLAS on two threads, whatever the environment says."""
    with threadpool_limits(2, user_api="blas"):
        yield


def test_pieces_come_back_in_order_from_two_threads(two_threads) -> None:
    seen = []

    def piece(number: int) -> int:
        seen.append(threading.get_ident())
        return number

    with workers() as run:
        assert blas_threads() == {1}
        assert run(partial(piece, number) for number in range(3)) == [0, 1, 2]
    assert len(set(seen)) == 2
    assert blas_threads() == {2}


def test_where_blas_has_one_thread_there_is_no_other() -> None:
    with threadpool_limits(1, user_api="blas"), workers() as run:
        assert run is alone


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_thread_is_raised_and_blas_is_as_before(two_threads, failing) -> None:
    def piece(number: int) -> None:
        if number == failing:
            raise ArithmeticError(number)

    with pytest.raises(ArithmeticError, match=str(failing)), workers() as run:
        run(partial(piece, number) for number in range(2))
    assert blas_threads() == {2}


@pytest.mark.parametrize("columns", [300, 1300])
def test_levels_are_those_of_one_thread(two_threads, columns) -> None:
    """Of a layer rounded at once, and of one rounded in parts."""
    random = np.random.default_rng(SEED)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = random.normal(size=(columns, 20)).astype(np.float32)
    read = random.normal(1.0, 1.0, (6, 40, columns)).astype(np.float32)
    in_float = read + random.normal(0.0, 0.1, read.shape).astype(np.float32)
    images = [tuple(partial(np.asarray, image) for image in pair) for pair in zip(read, in_float, strict=True)]
    scale = (np.abs(weight).max(axis=0) / 127)[np.newaxis]
    with workers() as run:
        shared, single = (
            round_layer(node, weight, scale, lambda: images, num_images=6, run=each) for each in (run, alone)
        )
    assert_array_equal(shared, single)
