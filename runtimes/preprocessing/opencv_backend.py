"""The fast path of preparation: OpenCV decodes JPEGs and averages blocks before Pillow resizes what is left.

The pixels are nearly the training's, `benchmarks/preprocessing.py` measures how nearly. A picture is read as
`decode` reads it (EXIF orientation applied, transparency over white, only known formats): Pillow reads the
head, and decodes whatever is no plain RGB JPEG. What is to become more than twice `REDUCING_GAP` times smaller is first
made smaller by a whole number, each pixel the mean of a block; Pillow's own resize does the rest, from the fraction of
the reduced picture that the whole one was. Source: Pillow 12, `Image.resize`, `reducing_gap`.
"""

from __future__ import annotations

import io
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.errors import ImageReadError
from runtimes.needed_library import needed_library
from runtimes.preprocessing.center_crop import cropped
from runtimes.preprocessing.decode import check_pixel_count, exif_orientation, formats_here
from runtimes.preprocessing.image_input import Channels, ImageInput, array_of, rgb_array, rgb_image
from runtimes.preprocessing.resize import check_resized, draft_size, resized_size
from runtimes.preprocessing.transform import Interpolation, Preprocessing

REDUCING_GAP = 3.0
"""How many times the resized picture the reduced one is at least; 3 is "close to fair resampling" in Pillow's words."""

_NARROW = frozenset((Interpolation.NEAREST, Interpolation.BOX))
"""Kernels without overlap: which block a pixel falls into decides too much of the result (measured for BOX: up to 48
grey levels)."""

_FASTER_DECODE = (8, 4, 2)
"""Reductions that a JPEG decoder offers: it computes fewer coefficients of each 8 x 8 block."""


def load_opencv() -> Any:
    """Return the module `cv2`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return needed_library("cv2", 'backend="opencv" needs OpenCV ({err}); pip install opencv-python-headless')


def opencv_pixels(
    preprocessing: Preprocessing, source: ImageInput, *, channels: Channels | None = None, draft: bool = False
) -> NDArray[np.uint8]:
    """Return a picture resized and cropped: uint8 [H, W, 3], R, G, B; takes and raises what `rgb_image` does."""
    cv2 = load_opencv()
    picture, is_bgr = _decoded(cv2, preprocessing, source, channels, draft)
    height, width = picture.shape[:2]
    size = (width, height)
    if preprocessing.resize is not None:
        size = resized_size(preprocessing.resize, (width, height))
        check_resized((width, height), size)
    if size == (width, height):
        image = Image.fromarray(picture)
    else:
        factor = 1
        if preprocessing.interpolation not in _NARROW:
            factor = max(1, int(min(width / size[0], height / size[1]) / REDUCING_GAP))
        box = (0.0, 0.0, width / factor, height / factor)
        reduced = _reduced(cv2, picture, factor)
        image = Image.fromarray(reduced).resize(size, Image.Resampling[preprocessing.interpolation.name], box)
    if preprocessing.crop is not None:
        red, green, blue = preprocessing.fill
        image = cropped(image, preprocessing.crop, (blue, green, red) if is_bgr else preprocessing.fill)
    pixels = np.asarray(image)
    return np.array(pixels[..., ::-1] if is_bgr else pixels, order="C")


def _reduced(cv2: Any, picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return the means of blocks of `factor` x `factor` pixels; those at the right and lower edge may be smaller."""
    if factor == 1:
        return picture
    height, width = picture.shape[:2]
    rows, columns = height // factor, width // factor
    result = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    across = ((0, columns, 0, columns * factor), (columns, result.shape[1], columns * factor, width))
    down = ((0, rows, 0, rows * factor), (rows, len(result), rows * factor, height))
    for (above, below, first_row, last_row), (left, right, first, last) in product(down, across):
        if below > above and right > left:
            block = picture[first_row:last_row, first:last]
            size = (right - left, below - above)
            result[above:below, left:right] = cv2.resize(block, size, interpolation=cv2.INTER_AREA)
    return result


def _decoded(
    cv2: Any, preprocessing: Preprocessing, source: ImageInput, channels: Channels | None, draft: bool
) -> tuple[NDArray[np.uint8], bool]:
    """Return pixels, and whether they are in the order B, G, R."""
    array = array_of(source)
    if array is not None and channels is not None:
        rgb_array(array[:1, :1], channels)  # for its checks; the order is turned at the end, on fewer pixels
        return np.ascontiguousarray(array), channels == "BGR"
    if channels is None and isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        content = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else _content(Path(source))
        turn = _turn_of_plain_jpeg(content) if content else None
        if turn is not None:
            flags = cv2.IMREAD_IGNORE_ORIENTATION | _how_to_decode(cv2, preprocessing, content, draft=draft)
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            if picture is not None:
                return _turned(picture, turn), True
    # Arrays and Pillow images; formats that OpenCV reads otherwise; and what it cannot read, for Pillow to say why.
    return np.asarray(rgb_image(source, channels=channels)), False


def _content(path: Path) -> bytes:
    """Return a file's bytes; nothing for what Pillow's reader refuses with better words."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _turn_of_plain_jpeg(content: bytes) -> int | None:
    """Return the EXIF orientation of a JPEG in RGB, or None for every other file."""
    try:
        with Image.open(io.BytesIO(content), formats=formats_here()) as image:  # reads the head only
            check_pixel_count(image)
            if image.format != "JPEG" or image.mode != "RGB" or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
                return None  # OpenCV fills a JPEG that is cut short with grey and says nothing
            return exif_orientation(image)
    except ImageReadError:
        raise
    except Exception:  # damaged in any way: Pillow's reader says how
        return None


def _how_to_decode(cv2: Any, preprocessing: Preprocessing, content: bytes, *, draft: bool) -> int:
    if draft and preprocessing.resize is not None:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            shorter = min(image.size)
        for factor in _FASTER_DECODE:
            if shorter // max(draft_size(preprocessing.resize)) >= factor:
                return int(getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}"))
    return int(cv2.IMREAD_COLOR)


def _turned(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels upright. Source: EXIF 2.32, table 6; as `runtimes.preprocessing.decode` does with Pillow."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
