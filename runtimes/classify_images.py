"""Many image files to their best classes: decoding in threads ahead of the model, one row for every file.

The rows come in the order of the files. A file that cannot be read gives a row that says why; it is never left out.
Batches are cut at fixed places, so that the same files give the same batches, and thus the same bits, whatever was done
before and wherever it runs. Memory does not grow with the number of files: three batches wait as uint8, one as float32.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import BundleError, ImageReadError
from runtimes.image_file import read_image
from runtimes.manifest import Manifest
from runtimes.preprocessing import normalize, pixels
from runtimes.protocol import Array, Runtime

if TYPE_CHECKING:
    from typing_extensions import Self

_BATCHES_AHEAD = 2

# Names that exporter.finish_graph gives the outputs of --topk and --softmax.
_SCORES, _INDICES, _PROBABILITIES = "scores", "indices", "probabilities"

_Decoding = tuple[int, str, "Future[NDArray[np.uint8]]"]


@dataclass(frozen=True, slots=True)
class Row:
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


class ImageClassifier:
    """A model with all that is needed to classify files.

    Args:
        model: An open model; `close` closes it.
        manifest: Of its bundle.
        top_k: Classes in a row; at most as many as the model has are given.
        batch_size: Files in a batch.
        decoders: Decoding threads; one for each CPU when None.
        root: Where relative paths begin; the current folder when None.

    Raises:
        BundleError: If the model's outputs are no classes, or it keeps fewer than `top_k` of them.
        ValueError: If a number is smaller than 1.
    """

    def __init__(
        self,
        model: Runtime,
        manifest: Manifest,
        *,
        top_k: int = 5,
        batch_size: int = 32,
        decoders: int | None = None,
        root: Path | None = None,
    ) -> None:
        self._decoders = usable_cpus() if decoders is None else decoders
        if min(top_k, batch_size, self._decoders) < 1:
            raise ValueError(f"got top_k {top_k}, batch_size {batch_size}, decoders {decoders}; expected at least 1")
        check_outputs(manifest, top_k)
        self._model = model
        self._manifest = manifest
        self._top_k = top_k
        self._batch_size = batch_size
        self._root = root or Path()

    def rows(self, parts: Iterable[Part]) -> Iterator[Row]:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, path: str) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3]: a quarter of the memory that waiting as float32 would take."""
        image = read_image(self._root / path)
        try:
            return pixels(self._manifest.preprocessing, image)
        except ImageReadError as err:
            raise ImageReadError(f"cannot read image {path!r}: {err}") from err

    def _answers(self, batch: list[_Decoding]) -> Iterator[Row]:
        decoded: list[NDArray[np.uint8]] = []
        errors: dict[int, str] = {}
        for index, _, decoding in batch:
            try:
                decoded.append(decoding.result())
            except ImageReadError as err:
                errors[index] = str(err)
        classes, scores = self._run(decoded) if decoded else (np.empty((0, 0)), np.empty((0, 0)))
        best = iter(zip(classes.tolist(), scores.tolist(), strict=True))
        for index, path, _ in batch:
            if index in errors:
                yield Row(index, path, (), (), errors[index])
            else:
                of_image, with_score = next(best)
                yield Row(index, path, tuple(of_image), tuple(with_score))

    def _run(self, decoded: Sequence[NDArray[np.uint8]]) -> tuple[Array, Array]:
        images: Array = np.stack(decoded)
        entry = self._manifest.inputs[0]
        if entry.dtype != "uint8":
            images = normalize(self._manifest.preprocessing, images)
        return best_classes(self._model.run({entry.name: images}), self._manifest, self._top_k)


def best_classes(outputs: dict[str, Array], manifest: Manifest, top_k: int) -> tuple[Array, Array]:
    """Return the best classes and their scores of one batch.

    Args:
        outputs: Of the model, by name.
        manifest: Says what they are.
        top_k: How many at most.

    Returns:
        int64 [n, k] and float32 [n, k], best first; of equal scores the lower class comes first. Logits become
        probabilities (softmax, computed in float64).
    """
    if _INDICES in outputs:
        return outputs[_INDICES][:, :top_k], outputs[_SCORES][:, :top_k]
    (output,) = manifest.outputs
    scores = outputs[output.name].astype(np.float64)
    if output.name != _PROBABILITIES:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return classes, np.take_along_axis(scores, classes, axis=1).astype(np.float32)


def score_kind(manifest: Manifest) -> str:
    """Return what the scores of a row are: "probability" or "logit"."""
    names = [entry.name for entry in manifest.outputs]
    return "logit" if _INDICES in names and not manifest.options.get("softmax") else "probability"


def check_outputs(manifest: Manifest, top_k: int) -> None:
    """Raise unless the model's outputs are classes, and as many as are asked for.

    Raises:
        BundleError: With what they are instead.
    """
    names = [entry.name for entry in manifest.outputs]
    if names == [_SCORES, _INDICES]:
        kept = manifest.outputs[0].shape[1]
        if isinstance(kept, int) and kept < top_k:
            raise BundleError(f"the model gives the {kept} best classes only; ask for --top-k {kept} or fewer")
    elif len(names) != 1 or len(manifest.outputs[0].shape) != 2:
        raise BundleError(
            f"the model's outputs are {', '.join(names)}, no classes; expected one output [batch, classes], as an "
            "export without --features gives"
        )


def cut_parts(paths: Sequence[str], part_size: int) -> list[Part]:
    """Return the files in parts of `part_size`, the last with what is left."""
    return [
        Part(number, start, tuple(paths[start : start + part_size]))
        for number, start in enumerate(range(0, len(paths), part_size))
    ]


def usable_cpus() -> int:
    """Return on how many CPUs this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(parts: Iterable[Part], batch_size: int) -> Iterator[list[tuple[int, str]]]:
    for part in parts:
        for first in range(0, len(part.paths), batch_size):
            paths = part.paths[first : first + batch_size]
            yield [(part.start + first + place, path) for place, path in enumerate(paths)]
