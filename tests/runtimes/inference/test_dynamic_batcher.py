"""`DynamicBatcher`: everybody gets their own rows, an error reaches only whom it belongs to, the queue is bounded."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from runtimes.errors import InputMismatchError, ModelClosedError, QueueFullError, RuntimeAdapterError
from runtimes.inference.dynamic_batcher import DynamicBatcher
from runtimes.protocol import TensorSpec


class Doubling:
    """Gives twice its input; a row of -1 breaks the whole batch; waits where it is told to."""

    def __init__(self):
        self.input_specs = {"input": TensorSpec("float32", (None, 2))}
        self.output_specs = {"output": TensorSpec("float32", (None, 2))}
        self.sizes: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.entered = threading.Event()

    def run(self, inputs):
        self.entered.set()
        assert self.may_run.wait(20)
        self.sizes.append(len(inputs["input"]))
        if (inputs["input"] == -1).any():
            raise RuntimeAdapterError("a bad row")
        return {"output": inputs["input"] * 2}


def request(value, rows=1):
    return {"input": np.full((rows, 2), value, np.float32)}


@pytest.fixture
def model():
    return Doubling()


def batcher_of(model, **options):
    return DynamicBatcher(model, **{"max_batch": 4, "max_wait_ms": 1.0, "max_queue": 64, **options})


def held(model, batcher):
    """Make the batcher's thread wait inside a batch, so that what comes next queues up."""
    model.may_run.clear()
    model.entered.clear()
    first = batcher.submit(request(0))
    assert model.entered.wait(20)
    return first


def test_everybody_gets_their_own_rows(model):
    with batcher_of(model) as batcher, ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(lambda value: batcher.run(request(value, 1 + value % 3))["output"], range(200)))
    for value, output in enumerate(outputs):
        assert np.array_equal(output, np.full((1 + value % 3, 2), 2 * value, np.float32))
    assert max(model.sizes) <= 4
    assert sum(model.sizes) == sum(1 + value % 3 for value in range(200))
    assert batcher.statistics.num_requests == 200
    assert batcher.statistics.num_batches == len(model.sizes)


def test_what_waits_is_gathered(model):
    with batcher_of(model) as batcher:
        first = held(model, batcher)
        futures = [batcher.submit(request(value)) for value in range(1, 10)]
        model.may_run.set()
        assert [future.result(20)["output"][0, 0] for future in futures] == [2 * value for value in range(1, 10)]
        assert first.result(20)["output"][0, 0] == 0
    assert model.sizes == [1, 4, 4, 1]


def test_a_lone_request_waits_no_longer_than_it_must(model):
    with batcher_of(model, max_wait_ms=0) as batcher:
        assert batcher.run(request(3))["output"][0, 0] == 6
    assert model.sizes == [1]


def test_a_large_request_is_a_batch_of_its_own(model):
    with batcher_of(model) as batcher:
        assert batcher.run(request(1, rows=11))["output"].shape == (11, 2)
    assert model.sizes == [11]


def test_outputs_share_no_memory(model):
    with batcher_of(model) as batcher:
        held(model, batcher)
        futures = [batcher.submit(request(value)) for value in (1, 2)]
        model.may_run.set()
        one, other = (future.result(20)["output"] for future in futures)
    one[:] = 0
    assert not np.shares_memory(one, other)
    assert other[0, 0] == 4


def test_a_wrong_input_is_the_callers_alone(model):
    with batcher_of(model) as batcher:
        held(model, batcher)
        good = batcher.submit(request(1))
        for wrong in ({}, {"input": np.zeros((1, 3), np.float32)}, {"input": np.zeros((1, 2))}):
            with pytest.raises(InputMismatchError):
                batcher.submit(wrong)
        model.may_run.set()
        assert good.result(20)["output"][0, 0] == 2


def test_a_row_that_breaks_the_batch_harms_nobody_else(model):
    with batcher_of(model) as batcher:
        held(model, batcher)
        futures = [batcher.submit(request(value)) for value in (1, -1, 3)]
        model.may_run.set()
        assert futures[0].result(20)["output"][0, 0] == 2
        with pytest.raises(RuntimeAdapterError, match="a bad row"):
            futures[1].result(20)
        assert futures[2].result(20)["output"][0, 0] == 6
        assert batcher.run(request(5))["output"][0, 0] == 10


def test_a_full_queue_refuses_and_then_takes_again(model):
    with batcher_of(model, max_queue=2) as batcher:
        held(model, batcher)
        futures = [batcher.submit(request(value)) for value in (1, 2)]
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            batcher.submit(request(3), timeout_s=0.01)
        threading.Timer(0.05, model.may_run.set).start()
        assert batcher.submit(request(4), timeout_s=20).result(20)["output"][0, 0] == 8
        assert [future.result(20)["output"][0, 0] for future in futures] == [2, 4]


def test_a_cancelled_request_is_left_out(model):
    with batcher_of(model) as batcher:
        held(model, batcher)
        gone, stays = batcher.submit(request(1)), batcher.submit(request(2))
        assert gone.cancel()
        model.may_run.set()
        assert stays.result(20)["output"][0, 0] == 4
    assert model.sizes == [1, 1]


def test_async(model):
    async def many():
        return await asyncio.gather(*(batcher.run_async(request(value)) for value in range(20)))

    with batcher_of(model) as batcher:
        assert [output["output"][0, 0] for output in asyncio.run(many())] == [2 * value for value in range(20)]


def test_close_answers_what_waits_and_takes_no_more(model):
    batcher = batcher_of(model)
    held(model, batcher)
    futures = [batcher.submit(request(value)) for value in range(6)]
    threading.Timer(0.05, model.may_run.set).start()
    batcher.close()
    batcher.close()
    assert [future.result(0)["output"][0, 0] for future in futures] == [2 * value for value in range(6)]
    with pytest.raises(ModelClosedError):
        batcher.submit(request(1))


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"max_queue": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}]
)
def test_limits_out_of_range(model, options):
    with pytest.raises(ValueError, match="max_batch"):
        batcher_of(model, **options)


def test_a_model_without_a_batch_axis(model):
    model.input_specs = {"input": TensorSpec("float32", (3, 2))}
    with pytest.raises(ValueError, match="has no batch axis"):
        batcher_of(model)
