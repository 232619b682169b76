"""Single requests of many callers, gathered into batches: what an app that serves puts between itself and a model.

One thread gathers and runs. It waits for more rows only while nothing computes and the oldest request is younger than
`max_wait_ms`; under load the queue is full when a batch ends, and nothing is waited for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from runtimes.closing import Closing
from runtimes.errors import InputMismatchError, ModelClosedError, QueueFullError
from runtimes.fork_guard import refuse_in_a_child
from runtimes.protocol import Array, InputCheck, Runtime


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    inputs: Mapping[str, Array]
    rows: int
    future: Future[dict[str, Array]]
    arrived: float


@dataclass(slots=True)
class BatcherStatistics:
    """Counters of a batcher: requests answered, rows computed, batches run, and the most that ever waited."""

    num_requests: int = 0
    num_rows: int = 0
    num_batches: int = 0
    longest_queue: int = 0


class DynamicBatcher(Closing):
    """Gathers requests into batches of at most `max_batch` rows. Any number of threads may use one.

    Args:
        model: What computes; it takes any batch and stays open as long as the batcher.
        max_batch: Rows of a batch at most; a request of more rows is a batch of its own.
        max_wait_ms: How long the oldest request waits for company at most, in milliseconds.
        max_queue: Requests that wait at most; beyond, `submit` waits, and raises when its time is over.

    Raises:
        ValueError: If a limit is out of range, or an input's first axis is fixed.
    """

    def __init__(self, model: Runtime, *, max_batch: int, max_wait_ms: float, max_queue: int) -> None:
        if max_batch < 1 or max_queue < 1 or not 0 <= max_wait_ms < float("inf"):
            raise ValueError(
                f"got max_batch {max_batch}, max_wait_ms {max_wait_ms}, max_queue {max_queue}; expected >= 1, 0 and 1"
            )
        specs = {**model.input_specs, **model.output_specs}
        if fixed := [name for name, spec in specs.items() if not spec.shape or spec.shape[0] is not None]:
            raise ValueError(f"{fixed[0]!r} has no batch axis: {specs[fixed[0]]}; its requests cannot be gathered")
        self._model = model
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue = max_queue
        self._check = InputCheck(model.input_specs)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._taken = threading.Condition(self._lock)
        self._queue: deque[_Request] = deque()
        self._queued_rows = 0
        self._closed = False
        self.statistics = BatcherStatistics()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> Future[dict[str, Array]]:
        """Put one request into the queue and return where its outputs will be.

        Args:
            inputs: As for `run` of the model; the arrays must not change until the outputs are there.
            timeout_s: How long to wait for a place in the queue; None for as long as it takes, 0 not at all.

        Raises:
            InputMismatchError: If an input has a wrong name, dtype or shape; nobody else notices.
            QueueFullError: If there was no place in time.
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
        """
        refuse_in_a_child(self._process)
        inputs = self._check(inputs)
        rows = {len(array) for array in inputs.values()}
        if len(rows) != 1:
            raise InputMismatchError(f"the inputs have different batch sizes: {sorted(rows)}; expected one")
        request = _Request(inputs, rows.pop(), Future(), time.monotonic())
        with self._lock:
            has_place = self._taken.wait_for(lambda: self._closed or len(self._queue) < self._max_queue, timeout_s)
            if self._closed:
                raise ModelClosedError("this batcher is closed")
            if not has_place:
                raise QueueFullError(
                    f"{self._max_queue} requests wait already, and none was taken in {timeout_s:g} s; try again later"
                )
            self._queue.append(request)
            self._queued_rows += request.rows
            self.statistics.longest_queue = max(self.statistics.longest_queue, len(self._queue))
            self._arrived.notify()
        return request.future

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Submit one request and wait for its outputs; raises what `submit` and the model raise."""
        return self.submit(inputs).result()

    async def run_async(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Submit one request and await its outputs.

        Raises:
            QueueFullError: If the queue is full: the event loop must not wait for a place.
            and whatever `run` raises.
        """
        import asyncio  # whoever awaits has it already; for the others it is 4 MB

        return await asyncio.wrap_future(self.submit(inputs, timeout_s=0))

    def close(self) -> None:
        """Take no more requests, answer those in the queue, and end the thread; a second call does nothing."""
        if os.getpid() != self._process:  # a forked child: the thread is the parent's
            return
        with self._lock:
            self._closed = True
            self._arrived.notify_all()
            self._taken.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            batch = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            del batch  # so that nobody's arrays are held while nothing is to do

    def _next_batch(self) -> list[_Request]:
        """Wait for requests; return those of one batch, or nothing when closed and empty."""
        with self._lock:
            self._arrived.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return []
            deadline = self._queue[0].arrived + self._max_wait_s
            while self._queued_rows < self._max_batch and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrived.wait(left):
                    break
            batch: list[_Request] = []
            rows = 0
            while self._queue and (not batch or rows + self._queue[0].rows <= self._max_batch):
                batch.append(self._queue.popleft())
                rows += batch[-1].rows
            self._queued_rows -= rows
            self._taken.notify(len(batch))
            return batch

    def _answer(self, batch: list[_Request]) -> None:
        try:
            outputs = self._run_together(batch)
        except BaseException as err:  # whatever it is belongs to the callers; this thread must go on
            if len(batch) == 1:
                batch[0].future.set_exception(err)
            else:  # one of them is to blame, perhaps: alone, each gets its own answer or its own error
                for request in batch:
                    self._answer([request])
            return
        self.statistics.num_batches += 1
        self.statistics.num_requests += len(batch)
        start = 0
        for request in batch:
            end = start + request.rows
            # A copy: a view would keep the whole batch alive, and its rows would share memory with a stranger's.
            own = outputs if len(batch) == 1 else {name: array[start:end].copy() for name, array in outputs.items()}
            self.statistics.num_rows += request.rows
            request.future.set_result(own)
            start = end

    def _run_together(self, batch: list[_Request]) -> dict[str, Array]:
        if len(batch) == 1:
            return self._model.run(batch[0].inputs)
        names = self._model.input_specs
        return self._model.run({name: np.concatenate([request.inputs[name] for request in batch]) for name in names})
