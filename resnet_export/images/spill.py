"""Pictures that came as arrays, written to a folder without loss, so that they go the way of files.

A job reads its images several times, hashes them and looks for copies, in memory that does not grow with their number;
an iterable can be read once. Pixels become PNG files, which give back the same bits; prepared inputs become .npy files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtimes.preprocessing.image_batches import PREPARED_SUFFIX
from runtimes.preprocessing.image_input import array_of

EXPECTED = "pictures uint8 [H, W, 3] in RGB, Pillow images, or prepared inputs float32 [C, H, W] or [N, C, H, W]"


def spill_pictures(pictures: Iterable[Any], folder: Path, what: str) -> tuple[Path, ...]:
    """Write pictures below `folder`, in order; return their files.

    Args:
        pictures: One picture after another, or an array of them: uint8 [N, H, W, 3] or float32 [N, C, H, W].
        folder: Empty; where they go.
        what: The argument's name, for messages.

    Raises:
        TypeError: If something is no picture; the message says which and what was expected.
        ValueError: If there is none, or pixels and prepared inputs are mixed.
    """
    paths: list[Path] = []
    for place, picture in enumerate(_one_by_one(pictures)):
        array = _pixels(picture, f"{what}[{place}]")
        for one in array if array.ndim == 4 else (array,):
            stem = folder / f"{len(paths):08d}"
            if one.dtype == np.uint8:
                paths.append(stem.with_suffix(".png"))
                Image.fromarray(np.ascontiguousarray(one)).save(paths[-1], compress_level=1)
            else:
                paths.append(stem.with_suffix(PREPARED_SUFFIX))
                np.save(paths[-1].open("wb"), np.ascontiguousarray(one), allow_pickle=False)
    if not paths:
        raise ValueError(f"{what}: got no pictures; expected {EXPECTED}")
    if len({path.suffix for path in paths}) > 1:
        raise ValueError(f"{what}: got both pixels and prepared inputs; give one kind")
    return tuple(paths)


def _one_by_one(pictures: Iterable[Any]) -> Iterable[Any]:
    array = array_of(pictures)
    return pictures if array is None else (array,) if array.ndim < 4 else array


def _pixels(picture: Any, name: str) -> np.ndarray[Any, Any]:
    """Return uint8 [H, W, 3], float32 [C, H, W] or [N, C, H, W]."""
    array = np.asarray(picture.convert("RGB")) if isinstance(picture, Image.Image) else array_of(picture)
    if array is None:
        raise TypeError(f"{name}: got {type(picture).__name__}, expected {EXPECTED}")
    pixels = array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3
    prepared = array.dtype == np.float32 and array.ndim in (3, 4) and 0 not in array.shape
    if not pixels and not prepared:
        raise TypeError(f"{name}: got {array.dtype} {list(array.shape)}, expected {EXPECTED}")
    if prepared and not np.isfinite(array).all():
        raise ValueError(f"{name}: a prepared input holds NaN or Inf")
    return array
