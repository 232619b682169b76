"""Whatever an app has of a picture, as Pillow's RGB image: a path, a file's bytes, a Pillow image, or pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np
from PIL import Image

from runtimes.errors import ImageReadError, InputMismatchError
from runtimes.preprocessing.decode import image_from_bytes, read_image, rgb_from_image

Channels = Literal["RGB", "BGR"]
ImageInput = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, Image.Image, Any]
"""`Any` stands for NumPy arrays and everything else with `__dlpack__`."""

_CHANNELS = ("RGB", "BGR")


def rgb_image(
    source: ImageInput, *, channels: Channels | None = None, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Return a picture of mode RGB.

    Args:
        source: A path; the bytes of an image file; a Pillow image; or pixels uint8 [H, W, 3] as a NumPy array or as
            anything with `__dlpack__` in main memory.
        channels: Order of the channels of an array, which nothing else tells: "RGB" (Pillow, imageio) or "BGR"
            (OpenCV). For arrays only.
        draft: See `runtimes.preprocessing.decode.read_image`; nothing for pictures that are decoded already.

    Raises:
        ImageReadError: If a file cannot be read, or a Pillow image has no one right reading as 8-bit RGB.
        InputMismatchError: If an array is not uint8 [H, W, 3], or not in main memory.
        TypeError: If it is none of these.
        ValueError: If `channels` is missing for an array, unknown, or given for something else.
    """
    if channels is not None and channels not in _CHANNELS:
        raise ValueError(f"channels: got {channels!r}, expected one of {', '.join(_CHANNELS)}")
    array = array_of(source)
    if array is None and channels is not None and isinstance(source, _SAY_THEIR_COLORS):
        raise ValueError(f"channels={channels!r} is for arrays; {type(source).__name__} says its colors itself")
    if array is not None:
        return Image.fromarray(rgb_array(array, channels))
    if isinstance(source, (str, os.PathLike)):
        return read_image(Path(source), draft=draft)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return image_from_bytes(bytes(source), draft=draft)
    if isinstance(source, Image.Image):
        return _rgb_from_pillow(source)
    raise TypeError(
        f"got {type(source).__name__}, expected a path, the bytes of an image file, a Pillow image, or an array uint8 "
        "[H, W, 3]"
    )


_SAY_THEIR_COLORS = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)


def array_of(source: ImageInput) -> np.ndarray[Any, Any] | None:
    """Return an array input as NumPy's, without a copy, or None for anything else.

    Raises:
        InputMismatchError: If it is on another device.
    """
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Image.Image) or not hasattr(source, "__dlpack__"):
        return None
    producer: Any = source
    try:
        return np.from_dlpack(producer)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as err:  # as each producer likes
        raise InputMismatchError(
            f"got {type(source).__name__} that NumPy cannot read by DLPack ({err}); copy it to main memory first"
        ) from err


def rgb_array(array: np.ndarray[Any, Any], channels: Channels | None) -> np.ndarray[Any, Any]:
    """Return pixels uint8 [H, W, 3] in the order R, G, B, C-contiguous; the caller's array where it is that already.

    Raises:
        InputMismatchError: If it is not uint8 [H, W, 3].
        ValueError: If nobody says in which order the channels are.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputMismatchError(
            f"got an array {array.dtype} {list(array.shape)}, expected pixels uint8 [H, W, 3], one picture; several as "
            "a list"
        )
    if channels is None:
        raise ValueError('an array does not tell its channels; say channels="RGB", or "BGR" for OpenCV\'s')
    return np.ascontiguousarray(array[..., ::-1] if channels == "BGR" else array)


def _rgb_from_pillow(image: Image.Image) -> Image.Image:
    try:
        return rgb_from_image(image)
    except ImageReadError:
        raise
    except Exception as err:  # a lazily opened file is decoded here, and decoders raise nearly everything
        raise ImageReadError(f"cannot read this Pillow image ({type(err).__name__}: {err})") from err
