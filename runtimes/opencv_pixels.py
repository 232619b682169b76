"""The fast path of preparation: OpenCV decodes JPEGs and resizes. Not the training's pixels; a script says how far off.

A picture is read as `runtimes.image_file` reads it (EXIF orientation applied, transparency over white, only known
formats): Pillow reads the head, and decodes whatever is no plain RGB JPEG. Made smaller, a pixel is the average of the
area it covers (`INTER_AREA`), where Pillow weights a neighbourhood twice as wide; made larger, both interpolate.
`benchmarks/preprocessing.py` measures the difference and the speed.
"""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.errors import ImageReadError, MissingDependencyError
from runtimes.image_file import READ_FORMATS, check_pixel_count, exif_orientation
from runtimes.image_input import Channels, ImageInput, array_of, rgb_array, rgb_image
from runtimes.preprocessing import Interpolation, Preprocessing, check_resized, crop_box
from runtimes.resize import resized_size

_FASTER_DECODE = (8, 4, 2)
"""Reductions that a JPEG decoder offers: it computes fewer coefficients of each 8 x 8 block."""


def load_opencv() -> Any:
    """Return the module `cv2`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except (ImportError, OSError) as err:  # OSError: a shared library of it is missing
        raise MissingDependencyError(
            f'backend="opencv" needs OpenCV ({err}); pip install opencv-python-headless'
        ) from err


def opencv_pixels(
    preprocessing: Preprocessing, source: ImageInput, *, channels: Channels | None = None, draft: bool = False
) -> NDArray[np.uint8]:
    """Return a picture resized and cropped: uint8 [H, W, 3], R, G, B; takes and raises what `rgb_image` does."""
    cv2 = load_opencv()
    picture, is_bgr = _decoded(cv2, preprocessing, source, channels, draft)
    height, width = picture.shape[:2]
    if preprocessing.resize is not None:
        width, height = resized_size(preprocessing.resize, (width, height))
        check_resized((picture.shape[1], picture.shape[0]), (width, height))
        if (height, width) != picture.shape[:2]:
            how = _interpolation(cv2, preprocessing.interpolation, smaller=height <= picture.shape[0])
            picture = cv2.resize(picture, (width, height), interpolation=how)
    if preprocessing.crop is not None:
        fill = preprocessing.fill[::-1] if is_bgr else preprocessing.fill
        picture = _cropped(picture, crop_box((width, height), preprocessing.crop), fill)
    result: NDArray[np.uint8] = np.array(picture[..., ::-1] if is_bgr else picture, order="C")
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
            flags = cv2.IMREAD_IGNORE_ORIENTATION | _reduced(cv2, preprocessing, content, draft=draft)
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
        with Image.open(io.BytesIO(content), formats=READ_FORMATS) as image:  # reads the head only
            check_pixel_count(image)
            if image.format != "JPEG" or image.mode != "RGB" or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
                return None  # OpenCV fills a JPEG that is cut short with grey and says nothing
            return exif_orientation(image)
    except ImageReadError:
        raise
    except Exception:  # damaged in any way: Pillow's reader says how
        return None


def _reduced(cv2: Any, preprocessing: Preprocessing, content: bytes, *, draft: bool) -> int:
    from runtimes.preparation import draft_size

    if not draft or preprocessing.resize is None:
        return int(cv2.IMREAD_COLOR)
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        smallest = min(image.size)
    for factor in _FASTER_DECODE:
        if smallest // factor >= max(draft_size(preprocessing)):
            return int(getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}"))
    return int(cv2.IMREAD_COLOR)


def _turned(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels upright. Source: EXIF 2.32, table 6; as `runtimes.image_file` does with Pillow."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _interpolation(cv2: Any, asked: Interpolation, *, smaller: bool) -> int:
    if asked is Interpolation.NEAREST:
        return int(cv2.INTER_NEAREST)
    if smaller:
        return int(cv2.INTER_AREA)
    names = {Interpolation.BICUBIC: "INTER_CUBIC", Interpolation.LANCZOS: "INTER_LANCZOS4"}
    return int(getattr(cv2, names.get(asked, "INTER_LINEAR")))


def _cropped(picture: NDArray[np.uint8], box: tuple[int, int, int, int], fill: tuple[int, ...]) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return picture[top:bottom, left:right]
    canvas = np.empty((bottom - top, right - left, 3), np.uint8)
    canvas[:] = fill
    inside = picture[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    canvas[max(-top, 0) : max(-top, 0) + inside.shape[0], max(-left, 0) : max(-left, 0) + inside.shape[1]] = inside
    return canvas
