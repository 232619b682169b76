"""Image files as a stream of prepared batches, decoded a little ahead in threads.

Memory does not grow with the number of files: at most one batch waits decoded (as uint8) while the caller
works on another. Threads suffice because Pillow decodes and resizes outside Python's global lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import ImageFolderError, ImageReadError
from runtimes.preprocessing.bands import ARRAY_EXTENSION, read_bands
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.image_folder import find_images
from runtimes.preprocessing.transform import Preprocessing, band_pixels, normalize, pixels

PREPARED_SUFFIX = ".prepared.npy"
"""Files that hold one input as the model takes it, float32 [C, H, W], and so are neither resized nor normalized."""

_NUM_NAMED = 5  # bad images in a message; the count beside them is complete

_Decoded = NDArray[Any]  # uint8 pixels [H, W, C], or float32 [C, H, W]
_Decoding = tuple[Path, "Future[_Decoded]"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images that are ready for a model, float32 [n, C, H, W], C-contiguous, the caller's, and the file of each."""

    images: NDArray[np.float32]
    paths: tuple[Path, ...]


def image_batches(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_error: Callable[[str], object] | None = None,
    workers: int = 2,
    max_bad_fraction: float = 0.01,
) -> Generator[Batch, None, None]:
    """Read and prepare images in order, leaving out those that cannot be read.

    Leaving the loop early, or closing the generator, drops what is not decoded yet and waits only for the
    images under decode (at most `workers`).

    Args:
        paths: Image files, at least one.
        preprocessing: How the images are prepared.
        batch_size: Images in each batch but the last; unreadable ones do not count.
        on_error: Called with the reason of each file that cannot be read, in order.
        workers: Decoding threads.
        max_bad_fraction: Largest tolerated share of `paths` that cannot be read, 0-1.

    Raises:
        ValueError: If an argument is out of range; here, not at the first batch.
        ImageFolderError: While iterating, as soon as more than `max_bad_fraction` of all `paths` are
            unreadable, or at the end if none was readable.
    """
    if not paths:
        raise ValueError("got no paths; expected at least one image, as find_images() returns")
    if batch_size < 1 or workers < 1:
        raise ValueError(f"got batch_size {batch_size} and workers {workers}; expected both at least 1")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"got max_bad_fraction {max_bad_fraction}, expected a fraction from 0 to 1")
    return _batches(
        paths, preprocessing, batch_size, on_error=on_error, workers=workers, max_bad_fraction=max_bad_fraction
    )


def load_batches(folder: Path, preprocessing: Preprocessing, *, batch_size: int = 8) -> Iterator[NDArray[np.float32]]:
    """Yield all images below a folder as prepared arrays, float32 [n, C, H, W], at most 1 % of them unreadable.

    Raises:
        ImageFolderError: If the folder is missing or empty (here), or too many images are unreadable (on the way).
    """
    paths = find_images(Path(folder))
    batches = image_batches(paths, preprocessing, batch_size=batch_size)
    return (batch.images for batch in batches)


def _batches(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    on_error: Callable[[str], object] | None,
    workers: int,
    max_bad_fraction: float,
) -> Generator[Batch, None, None]:
    good: list[tuple[Path, _Decoded]] = []
    bad: list[str] = []
    num_good = 0
    executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="read_image")
    try:
        for path, decoding in _decodings(executor, paths, preprocessing, window=max(batch_size, workers)):
            try:
                good.append((path, decoding.result()))
            except ImageReadError as err:
                bad.append(str(err))
                if on_error is not None:
                    on_error(bad[-1])
                _check_bad_fraction(bad, len(paths), max_bad_fraction)
            if len(good) == batch_size:
                num_good += batch_size
                yield _take_batch(good, preprocessing)
        if good:
            num_good += len(good)
            yield _take_batch(good, preprocessing)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    if num_good == 0:
        raise ImageFolderError(f"none of the {len(paths)} images could be read:{_some(bad)}")


def _decodings(
    executor: ThreadPoolExecutor, paths: Sequence[Path], preprocessing: Preprocessing, *, window: int
) -> Iterator[_Decoding]:
    """Yield the decodings in order, never with more than `window` submitted and not yet yielded."""
    todo = iter(paths)
    pending: deque[_Decoding] = deque()
    for path in todo:
        pending.append((path, executor.submit(_decode, path, preprocessing)))
        if len(pending) == window:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _decode(path: Path, preprocessing: Preprocessing) -> _Decoded:
    """Return uint8 [H, W, C], a quarter of the memory that waiting as float32 takes; or what is prepared already."""
    if path.name.endswith(PREPARED_SUFFIX):
        prepared: NDArray[np.float32] = np.load(path, allow_pickle=False)
        if prepared.shape != preprocessing.input_shape:
            expected = list(preprocessing.input_shape)
            raise ImageReadError(f"got a prepared input of {list(prepared.shape)}, expected {expected}")
        return prepared
    try:
        if path.suffix.lower() == ARRAY_EXTENSION:
            return band_pixels(preprocessing, read_bands(path, preprocessing.channels))
        return pixels(preprocessing, read_image(path))
    except ImageReadError as err:
        told = str(err)
        raise ImageReadError(
            told if told.startswith("cannot read image") else f"cannot read image {str(path)!r}: {told}"
        ) from err


def _take_batch(good: list[tuple[Path, _Decoded]], preprocessing: Preprocessing) -> Batch:
    """Empty `good` into a batch, so that nothing decoded is held twice while the caller works on it."""
    paths = tuple(path for path, _ in good)
    stacked = np.stack([image for _, image in good])
    images = normalize(preprocessing, stacked) if stacked.dtype == np.uint8 else stacked.astype(np.float32)
    good.clear()
    return Batch(images, paths)


def _check_bad_fraction(bad: Sequence[str], num_paths: int, max_bad_fraction: float) -> None:
    # The share, not a count, is compared: 0.29 * 100 is less than 29 in binary, but 29 / 100 is 0.29.
    if len(bad) / num_paths > max_bad_fraction:
        raise ImageFolderError(
            f"{len(bad)} of {num_paths} images could not be read so far, expected at most "
            f"{max_bad_fraction:.2%}; repair or remove them:{_some(bad)}"
        )


def _some(bad: Sequence[str]) -> str:
    more = len(bad) - _NUM_NAMED
    lines = [f"\n  {reason}" for reason in islice(bad, _NUM_NAMED)]
    return "".join(lines) + (f"\n  and {more} more" if more > 0 else "")
