"""Grey of more than 8 bits as the RGB picture that a person would see.

    level = round(255 value / white),   white = 2^bits - 1;  in a TIFF where 0 is white: value = white - stored

Pillow turns an 8-bit TIFF of that kind by itself, a 16-bit one not (seen with 13.0), so that an X-ray comes out
as a negative. It knows no signed levels either: what black is there, no tag says, and they are refused.

Cameras of 10 to 12 bits are often saved in 16 bits as they are: all of the picture then lies in the darkest sixteenth,
nearly black, and no file says so. It is read as it is, and the log says it, once a process and number of bits.

Sources: TIFF 6.0, PhotometricInterpretation (262) and SampleFormat (339); PNG 1.2, section 12.5 (sample depth scaling):
65535 = 255 * 257, so white stays white.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.errors import ImageReadError

_LOG = logging.getLogger(__name__)

_MAX_UINT16 = 65535
_BITS_TAG, _PHOTOMETRIC_TAG, _SAMPLE_FORMAT_TAG = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2

DARK_BITS = 12
"""A picture of 16 bits that uses no more than these is nearly black."""

_told: set[int] = set()
"""Numbers of bits that were told of: ten thousand pictures of one camera are one line of the log."""


def rgb_from_grey16(image: Image.Image, *, name: str = "a picture") -> Image.Image:
    """Scale 16-bit grey (modes I;16, I;16B and I) to 8 bits, black below; a transparent grey becomes white.

    Raises:
        ImageReadError: If its levels are signed or lie beyond 16 bits, so that its black and white are not known.
    """
    white = _white(image)
    stored = np.asarray(image).astype(np.int64)
    low, high = int(stored.min()), int(stored.max())
    if low < 0 or high > white:
        raise ImageReadError(
            f"its grey values go from {low} to {high}, beyond 16 bits (0 to {white}), so their black "
            "and white are not known; save it as 8-bit or 16-bit"
        )
    values = white - stored if _is_white_zero(image) else stored
    _tell_if_dark(int(values.max()), white, name)
    grey: NDArray[np.uint8] = ((510 * values + white) // (2 * white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[stored == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _white(image: Image.Image) -> int:
    """Return the level of white, or of black where 0 is white."""
    bits = _tag(image, _BITS_TAG)
    if _SIGNED in _tag(image, _SAMPLE_FORMAT_TAG) and bits == (16,):  # of 32 bits only what 16 hold is read anyway
        raise ImageReadError(
            "its grey values are signed, so that their black and white are not known; save it as 8-bit or as unsigned "
            "16-bit"
        )
    return (1 << int(bits[0])) - 1 if len(bits) == 1 and 8 < int(bits[0]) <= 16 else _MAX_UINT16


def _is_white_zero(image: Image.Image) -> bool:
    if image.format != "TIFF" or not hasattr(image, "tag_v2"):
        return False
    return _tag(image, _PHOTOMETRIC_TAG) in ((_WHITE_IS_ZERO,), ())  # Pillow's reading of 8 bits where it says nothing


def _tag(image: Image.Image, number: int) -> tuple[Any, ...]:
    """Return a TIFF tag's values, () where there is none."""
    value = getattr(image, "tag_v2", {}).get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _tell_if_dark(high: int, white: int, name: str) -> None:
    bits = max(8, high.bit_length())
    if white != _MAX_UINT16 or not high or bits > DARK_BITS or bits in _told:
        return
    _told.add(bits)
    _LOG.warning(
        "%s: its lightest level is %d of 65535, so that it is nearly black: %d-bit data in a 16-bit file? Scale it "
        "(by %d) as in training; further pictures like it are not named",
        name,
        high,
        bits,
        1 << (16 - bits),
    )
