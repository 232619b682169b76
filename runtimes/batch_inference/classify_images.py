"""Many image files to their best classes: decoding in threads ahead of the model, one row for every file.

The rows come in the order of the files. A file that cannot be read gives a row that says why; it is never left out.
Batches are cut at fixed places, so that the same files give the same batches, and thus the same bits, whatever was done
before and wherever it runs. Memory does not grow with the number of files: three batches wait as uint8, one as float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import Manifest
from runtimes.closing import Closing
from runtimes.errors import ImageReadError, NotAClassifierError, RuntimeAdapterError
from runtimes.inference.classification import (
    FEATURES_TOLD,
    INDICES,
    ONE_NUMBER_TOLD,
    SCORES,
    Classification,
    ScoredClass,
)
from runtimes.inference.model import Model
from runtimes.inference.model_description import ModelDescription
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.side_by_side import usable_cpus

_BATCHES_AHEAD = 2

_Decoding = tuple[int, str, "Future[NDArray[np.uint8]]"]


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """The answer for one file.

    Attributes:
        index: Place of the file in the input, from 0.
        path: As the input names it.
        classes: Indices of the best classes, best first; empty where `error` is not None.
        scores: One for each class; probabilities, or logits where the model has `--topk` without `--softmax`.
        error: Why the file could not be read, or None.
    """

    index: int
    path: str
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Files that are done together: `paths` are the ones from `start` on."""

    number: int
    start: int
    paths: tuple[str, ...]


class ImageClassifier(Closing):
    """An open model with all that is needed to classify files.

    Args:
        model: As `runtimes.load` returns it; `close` closes it.
        top_k: Classes in a row, fewer where the model has fewer.
        batch_size: Files in a batch.
        decoders: Decoding threads; one for each CPU when None.
        root: Where relative paths begin; the current folder when None.

    Raises:
        NotAClassifierError: If it is not known how the model's pictures are prepared.
        ValueError: If a number is smaller than 1.
    """

    def __init__(
        self,
        model: Model,
        *,
        top_k: int = 5,
        batch_size: int = 32,
        decoders: int | None = None,
        root: Path | None = None,
    ) -> None:
        self._decoders = usable_cpus() if decoders is None else decoders
        if min(top_k, batch_size, self._decoders) < 1:
            raise ValueError(f"got top_k {top_k}, batch_size {batch_size}, decoders {decoders}; expected at least 1")
        if model.preparation is None:
            raise NotAClassifierError("how this model's pictures are prepared is not known; load a bundle")
        self._model = model
        self._preparation = model.preparation
        self._top_k = top_k
        self._batch_size = batch_size
        self._root = root or Path()

    def describe(self) -> ModelDescription:
        """Return what runs."""
        return self._model.describe()

    def rows(self, parts: Iterable[Part]) -> Iterator[AnswerRow]:
        """Yield one row for every file of every part, in order; batches end where a part ends.

        Raises:
            RuntimeAdapterError: If the model fails; a file that cannot be read is a row instead.
        """
        executor = ThreadPoolExecutor(max_workers=self._decoders, thread_name_prefix="decode")
        waiting: deque[list[_Decoding]] = deque()
        try:
            for batch in _batches(parts, self._batch_size):
                waiting.append([(index, path, executor.submit(self._decode, path)) for index, path in batch])
                if len(waiting) > _BATCHES_AHEAD:
                    yield from self._answers(waiting.popleft())
            while waiting:
                yield from self._answers(waiting.popleft())
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def _decode(self, path: str) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3]: a quarter of the memory that waiting as float32 would take."""
        return self._preparation.pixels(self._root / path)

    def _answers(self, batch: list[_Decoding]) -> Iterator[AnswerRow]:
        decoded: list[NDArray[np.uint8]] = []
        errors: dict[int, str] = {}
        for index, _, decoding in batch:
            try:
                decoded.append(decoding.result())
            except ImageReadError as err:
                errors[index] = str(err)
        try:
            answers = iter(self._classify(decoded) if decoded else ())
        except RuntimeAdapterError as err:
            told = f"images {batch[0][0]} to {batch[-1][0]}, {batch[0][1]!r} first"
            raise RuntimeAdapterError(f"{told}: {err}") from err
        for index, path, _ in batch:
            if index in errors:
                yield AnswerRow(index, path, (), (), errors[index])
            else:
                best = next(answers).top
                yield AnswerRow(index, path, tuple(one.index for one in best), tuple(map(_score, best)))

    def _classify(self, decoded: list[NDArray[np.uint8]]) -> list[Classification]:
        (name,) = self._model.input_specs
        outputs = self._model.run({name: self._preparation.batch(decoded)})
        return self._model.classes(outputs, top=self._top_k)


def _score(one: ScoredClass) -> float:
    """Return the probability where it is known, else the logit, as the float32 that is nearest."""
    return float(np.float32(one.score if one.probability is None else one.probability))


def score_kind(manifest: Manifest) -> str:
    """Return what the scores of a row are: "probability" or "logit"."""
    names = [entry.name for entry in manifest.outputs]
    kind = manifest.answers or AnswerKind.LOGITS
    return "logit" if INDICES in names and kind is AnswerKind.LOGITS else "probability"


def check_outputs(manifest: Manifest, top_k: int) -> None:
    """Raise unless the model's outputs are classes, and as many as are asked for.

    Raises:
        NotAClassifierError: With what they are instead.
    """
    names = [entry.name for entry in manifest.outputs]
    if manifest.answers is AnswerKind.FEATURES:
        raise NotAClassifierError(FEATURES_TOLD)
    if manifest.gives_one_number:
        raise NotAClassifierError(ONE_NUMBER_TOLD)
    if names == [SCORES, INDICES]:
        kept = manifest.outputs[0].shape[1]
        if isinstance(kept, int) and kept < top_k:
            raise NotAClassifierError(f"the model gives the {kept} best classes only; ask for --top-k {kept} or fewer")
    elif len(names) != 1 or len(manifest.outputs[0].shape) != 2:
        raise NotAClassifierError(
            f"the model's outputs are {', '.join(names)}, no classes; expected one output [batch, classes], as an "
            "export without --features gives"
        )


def cut_parts(paths: Sequence[str], part_size: int) -> list[Part]:
    """Return the files in parts of `part_size`, the last with what is left."""
    return [
        Part(number, start, tuple(paths[start : start + part_size]))
        for number, start in enumerate(range(0, len(paths), part_size))
    ]


def _batches(parts: Iterable[Part], batch_size: int) -> Iterator[list[tuple[int, str]]]:
    for part in parts:
        for first in range(0, len(part.paths), batch_size):
            paths = part.paths[first : first + batch_size]
            yield [(part.start + first + place, path) for place, path in enumerate(paths)]
