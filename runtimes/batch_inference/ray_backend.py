"""Parts of a run as Ray tasks, on this machine or a cluster: the same code in every worker, rows back to the driver.

A worker opens the model once and keeps it. When a worker dies, Ray runs its task again elsewhere; its rows are only
returned whole, so that nothing is lost and nothing comes twice. The driver alone writes. The workers read the images
and the bundle under the same paths: on a cluster both lie on storage that all nodes share.

Source: https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html (max_retries).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from runtimes.batch_inference.classify_images import AnswerRow, ImageClassifier, Part
from runtimes.batch_inference.run import model_facts
from runtimes.closing import Closing
from runtimes.errors import ResultsError
from runtimes.needed_library import needed_library

LOCAL = "local"
"""Address of a cluster that is started on this machine for the run and stopped after it."""

MAX_RETRIES = 4
"""How often a part is tried again after its worker died; a file that kills its reader must not do so for ever."""

_TASKS_PER_WORKER = 2  # one runs, one waits with its arguments at hand


class RayWork(Closing):
    """Does parts as tasks of a Ray cluster; a context manager, which stops a cluster that it started.

    Args:
        open_classifier: Called in every worker; must be hashable and picklable.
        address: A cluster's address ("auto" finds the one of this machine), or "local".
        workers: Tasks at a time; one for each CPU of the cluster when None.
        gpus_per_worker: GPUs that Ray reserves for a task.

    Raises:
        MissingDependencyError: If Ray is not installed.
        ResultsError: If the cluster does not answer.
    """

    def __init__(
        self,
        open_classifier: Callable[[], ImageClassifier],
        *,
        address: str = LOCAL,
        workers: int | None = None,
        gpus_per_worker: float = 0,
    ) -> None:
        self._ray = needed_library("ray", '--ray needs Ray; pip install "resnet-export[ray]"')
        self._open_classifier = open_classifier
        self._workers = workers
        self._options = {"max_retries": MAX_RETRIES, "num_gpus": gpus_per_worker}
        self._started = not self._ray.is_initialized()
        if self._started:
            _start(self._ray, address, workers)

    def facts(self) -> dict[str, Any]:
        """Return which file runs on what, as a worker finds it: the driver may have no GPU."""
        task = self._ray.remote(**self._options)(_facts)
        facts: dict[str, Any] = _result(self._ray, task.remote(self._open_classifier), "the model")
        return facts

    def done(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[AnswerRow]]]:
        """Yield every part with its rows, in the order in which they are done.

        Raises:
            ResultsError: If a part's worker dies again and again.
            RuntimeAdapterError: What the classifier raised in a worker.
        """
        at_a_time = self._workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        task = self._ray.remote(**self._options)(_rows_of_part)
        return _in_flight(self._ray, task, parts, self._open_classifier, limit=at_a_time * _TASKS_PER_WORKER)

    def close(self) -> None:
        """Stop the cluster, if this started it."""
        if self._started:
            self._ray.shutdown()


def _in_flight(
    ray: Any, task: Any, parts: Sequence[Part], open_classifier: Callable[[], ImageClassifier], *, limit: int
) -> Iterator[tuple[Part, list[AnswerRow]]]:
    todo = iter(parts)
    running: dict[Any, Part] = {}
    try:
        while True:
            while len(running) < limit and (part := next(todo, None)) is not None:
                running[task.remote(open_classifier, part)] = part
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            part = running.pop(done)
            last = part.start + len(part.paths) - 1
            yield part, _result(ray, done, f"images {part.start} to {last}, {part.paths[0]!r} first")
    finally:
        for reference in running:
            ray.cancel(reference, force=False)


def _result(ray: Any, reference: Any, what: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as err:
        raise err.cause from err  # what the classifier raised
    except ray.exceptions.RayError as err:
        raise ResultsError(
            f"{what}: its worker died {MAX_RETRIES + 1} times ({type(err).__name__}); one of the files may bring the "
            "decoder down, or the memory is short. What is done is kept; go on with --resume"
        ) from err


def _facts(open_classifier: Callable[[], ImageClassifier]) -> dict[str, Any]:
    return model_facts(_opened(open_classifier))


def _rows_of_part(open_classifier: Callable[[], ImageClassifier], part: Part) -> list[AnswerRow]:
    return list(_opened(open_classifier).rows([part]))


@lru_cache(maxsize=1)
def _opened(open_classifier: Callable[[], ImageClassifier]) -> ImageClassifier:
    return open_classifier()


def _start(ray: Any, address: str, workers: int | None) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as err:
        raise ResultsError(f"--ray {address}: {err}") from err
