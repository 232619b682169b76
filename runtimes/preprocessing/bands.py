"""A picture of any number of channels from a `.npy` file: grey, multispectral, or RGB that was decoded before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import ImageReadError

ARRAY_EXTENSION = ".npy"
_MAX_BYTES = 1 << 30
_RGB = 3
_ALPHA = "; of a fourth channel nobody says whether it is transparency: keep [..., :3] if the picture is in them"
_WHITE_OF_16_BITS = 257  # 65535 = 255 * 257


def read_bands(path: Path, channels: int) -> NDArray[np.uint8]:
    """Return the pixels of a `.npy` file, uint8 [H, W, channels].

    Args:
        path: An array uint8 or uint16 (scaled by 1/257, as 16-bit pictures are): [H, W, C], [C, H, W], or [H, W] of one
            channel, which a model of RGB gets three times, as of a grey PNG.
        channels: How many the model takes.

    Raises:
        ImageReadError: If it cannot be read, holds Python objects, or has another dtype or shape.
    """
    array = _read(path)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if channels == _RGB and array.ndim == 3 and _RGB not in (array.shape[0], array.shape[2]):
        axis = next((axis for axis in (2, 0) if array.shape[axis] == 1), None)
        array = array if axis is None else np.repeat(array, _RGB, axis=axis)
    if array.ndim != 3 or channels not in (array.shape[0], array.shape[2]):
        raise ImageReadError(
            f"cannot read image {str(path)!r}: it is {array.dtype} {list(array.shape)}, expected [H, W, {channels}] or "
            f"[{channels}, H, W]{_ALPHA if channels == _RGB and array.ndim == 3 and array.shape[2] == 4 else ''}"
        )
    if array.shape[2] != channels:
        array = np.moveaxis(array, 0, 2)
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + _WHITE_OF_16_BITS // 2) // _WHITE_OF_16_BITS).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageReadError(
            f"cannot read image {str(path)!r}: its pixels are {array.dtype}, whose black and white are not known; "
            "expected uint8 or uint16"
        )
    return np.ascontiguousarray(array)


def _read(path: Path) -> NDArray[np.generic]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ImageReadError(f"cannot read image {str(path)!r}: it has more than {_MAX_BYTES:,} bytes")
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as err:
        raise ImageReadError(f"cannot read image {str(path)!r}: it is no whole array of numbers ({err})") from err
    if not isinstance(array, np.ndarray):
        raise ImageReadError(f"cannot read image {str(path)!r}: it holds several arrays, expected one")
    return array
