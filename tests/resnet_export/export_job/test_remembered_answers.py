"""RememberedAnswers: a picture is answered once, and every batch gets its own rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from resnet_export.export_job.context import remembered_answers
from resnet_export.export_job.context.remembered_answers import RememberedAnswers
from runtimes.protocol import Array, RuntimeAdapter, TensorSpec

IMAGES = np.arange(6 * 3 * 2 * 2, dtype=np.float32).reshape(6, 3, 2, 2)


class Counting(RuntimeAdapter):
    """Answers each picture with its sum and its maximum, and notes how many pictures it was given."""

    def __init__(self, rows: int | None = None) -> None:
        self.input_specs = {"input": TensorSpec("float32", (None, 3, None, None))}
        self.output_specs = dict.fromkeys(("logits", "most"), TensorSpec("float32", (None, None)))
        self.given: list[int] = []
        self.closed = False
        self._rows = rows

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        images = inputs["input"]
        self.given.append(len(images))
        answers = {"logits": images.sum(axis=(2, 3)), "most": images.max(axis=(1, 2, 3), keepdims=True)[:, 0, 0]}
        return answers if self._rows is None else {name: values[: self._rows] for name, values in answers.items()}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def counting() -> Counting:
    return Counting()


def logits(runtime: RememberedAnswers, images: Array) -> Array:
    return runtime.run({"input": images})["logits"]


def test_only_new_pictures_are_run(counting) -> None:
    runtime = RememberedAnswers(counting)
    for places in ([0], [0, 1], [4, 1, 0, 5], [0, 1, 4, 5], [2, 2]):
        batch = IMAGES[places]
        found = runtime.run({"input": batch})
        assert np.array_equal(found["logits"], batch.sum(axis=(2, 3)))
        assert np.array_equal(found["most"], batch.max(axis=(1, 2, 3))[:, np.newaxis])
        assert list(found) == list(counting.output_specs)
    assert counting.given == [1, 1, 2, 2]


def test_what_the_caller_writes_is_not_remembered(counting) -> None:
    runtime = RememberedAnswers(counting)
    for _ in range(2):
        found = logits(runtime, IMAGES[:2])
        assert np.array_equal(found, IMAGES[:2].sum(axis=(2, 3)))
        found += 1


def test_pictures_of_another_size_or_dtype_are_others(counting) -> None:
    """Four values in a row and two by two have the same bytes."""
    runtime = RememberedAnswers(counting)
    logits(runtime, IMAGES[:1])
    logits(runtime, IMAGES[:1].reshape(1, 3, 1, 4))
    logits(runtime, IMAGES[:1].view(np.int32))
    assert counting.given == [1, 1, 1]


def test_no_more_than_a_number_of_pictures_is_kept(counting, monkeypatch) -> None:
    monkeypatch.setattr(remembered_answers, "MAX_PICTURES", 2)
    runtime = RememberedAnswers(counting)
    for _ in range(2):
        logits(runtime, IMAGES)
    assert counting.given == [6, 4]


def test_large_answers_are_not_kept(counting, monkeypatch) -> None:
    monkeypatch.setattr(remembered_answers, "MAX_BYTES", 15)
    runtime = RememberedAnswers(counting)
    for _ in range(2):
        logits(runtime, IMAGES)  # 16 bytes each
    assert counting.given == [6, 6]


def test_answers_that_are_not_one_row_a_picture_are_passed_on() -> None:
    counting = Counting(rows=1)
    runtime = RememberedAnswers(counting)
    for _ in range(2):
        assert len(logits(runtime, IMAGES[:3])) == 1
    assert counting.given == [3, 3]


def test_closing_closes_what_answers(counting) -> None:
    with RememberedAnswers(counting):
        pass
    assert counting.closed
