"""Pictures that came as arrays, written to a folder without loss, so that they go the way of files.

A job reads its images several times, hashes them and looks for copies, in memory that does not grow with their number;
an iterable can be read once. Pixels become PNG files, which give back the same bits; prepared inputs become .npy files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtimes.preprocessing.image_batches import PREPARED_SUFFIX
from runtimes.preprocessing.image_input import array_of

MAX_STREAMED = 100_000
"""Pictures of something that does not say how many it has, such as a generator: twice ImageNet's validation set."""

KEPT_FREE = 0.25
"""Of what is free on the disk at the beginning, the share that pictures must leave."""

EXPECTED = "pictures uint8 [H, W, 3] in RGB, Pillow images, or prepared inputs float32 [C, H, W] or [N, C, H, W]"


def spill_pictures(pictures: Iterable[Any], folder: Path, what: str) -> tuple[Path, ...]:
    """Write pictures below `folder`, in order; return their files.

    Args:
        pictures: One picture after another, or an array of them: uint8 [N, H, W, 3] or float32 [N, C, H, W].
        folder: Empty; where they go.
        what: The argument's name, for messages.

    Raises:
        TypeError: If something is no picture; the message says which and what was expected.
        ValueError: If there is none, there are more than `MAX_STREAMED` of unknown number, or pixels and prepared
            inputs are mixed.
        OSError: If the disk would be nearly full.
    """
    paths: list[Path] = []
    must_stay = int(shutil.disk_usage(folder).free * KEPT_FREE)
    for one in _pictures(pictures, what):
        check_number(len(paths) + 1, pictures, what)
        _check_free(folder, must_stay, len(paths), what)
        paths.append(_written(one, folder / f"{len(paths):08d}"))
    if not paths:
        raise ValueError(f"{what}: got no pictures; expected {EXPECTED}")
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{what}: got both pixels and prepared inputs; give one kind")
    return tuple(paths)


def check_number(count: int, given: object, what: str) -> None:
    """Refuse more than `MAX_STREAMED` pictures of something that does not say how many it has: it may never end.

    Raises:
        ValueError: With what to give instead.
    """
    if count > MAX_STREAMED and not _says_how_many(given):
        raise ValueError(
            f"{what}: got more than {MAX_STREAMED:,} pictures from a {type(given).__name__}, which does not say how "
            f"many it has; all are read before some are chosen. Give itertools.islice({what}, 1000), or a folder"
        )


def _says_how_many(given: object) -> bool:
    """Tell whether `len` answers: PyTorch's DataLoader has one that raises where its data set has none."""
    try:
        return isinstance(given, Sized) and len(given) >= 0
    except TypeError:
        return False


def _check_free(folder: Path, must_stay: int, num_written: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < must_stay:
        raise OSError(
            f"{what}: the disk of the temporary folder {folder} has {free:,} bytes left after {num_written:,} pictures "
            f"were kept there, expected to leave {must_stay:,}; give fewer (itertools.islice({what}, 1000)), a folder "
            "of files, which is read where it is, or set TMPDIR to a larger disk"
        )


def _pictures(pictures: Iterable[Any], what: str) -> Iterator[np.ndarray[Any, Any]]:
    """Yield uint8 [H, W, 3] and float32 [C, H, W], batches taken apart."""
    for place, picture in enumerate(_one_by_one(pictures)):
        array = picture_array(picture, f"{what}[{place}]")
        yield from array if array.ndim == 4 else (array,)


def _written(picture: np.ndarray[Any, Any], stem: Path) -> Path:
    if picture.dtype == np.uint8:
        path = stem.with_suffix(".png")
        Image.fromarray(np.ascontiguousarray(picture)).save(path, compress_level=1)
        return path
    path = stem.with_suffix(PREPARED_SUFFIX)
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(picture), allow_pickle=False)
    return path


def _one_by_one(pictures: Iterable[Any]) -> Iterable[Any]:
    array = array_of(pictures)
    return pictures if array is None else (array,) if array.ndim < 4 else array


def picture_array(picture: Any, name: str) -> np.ndarray[Any, Any]:
    """Return uint8 [H, W, 3] or [N, H, W, 3], float32 [C, H, W] or [N, C, H, W]; raise TypeError of anything else."""
    array = np.asarray(picture.convert("RGB")) if isinstance(picture, Image.Image) else array_of(picture)
    if array is None:
        hint = "; files are given as a list: list(...)" if isinstance(picture, (str, os.PathLike)) else ""
        if isinstance(picture, (tuple, list)):
            hint = "; of a loader of pictures and labels give the pictures: (pictures for pictures, _ in loader)"
        raise TypeError(f"{name}: got {type(picture).__name__}, expected {EXPECTED}{hint}")
    pixels = array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3
    prepared = array.dtype == np.float32 and array.ndim in (3, 4) and 0 not in array.shape
    if not pixels and not prepared:
        raise TypeError(f"{name}: got {array.dtype} {list(array.shape)}, expected {EXPECTED}")
    if prepared and not np.isfinite(array).all():
        raise ValueError(f"{name}: a prepared input holds NaN or Inf")
    return array
