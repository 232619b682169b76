"""The center crop, and the color that it adds around a smaller picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtimes.preprocessing.resize import size_from_json, with_keys

if TYPE_CHECKING:
    from PIL import Image

BLACK = (0, 0, 0)


def cropped(image: Image.Image, crop: tuple[int, int], fill: tuple[int, int, int]) -> Image.Image:
    """Cut (height, width) out of the middle; a smaller picture is padded with `fill`."""
    left, top = _crop_offset(image.width, crop[1]), _crop_offset(image.height, crop[0])
    if fill == BLACK or (crop[1] <= image.width and crop[0] <= image.height):
        return image.crop((left, top, left + crop[1], top + crop[0]))  # black where it lies outside the image
    from PIL import Image as PillowImage

    canvas = PillowImage.new("RGB", (crop[1], crop[0]), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _crop_offset(side: int, crop: int) -> int:
    """Return where the crop begins; an odd padding has its extra pixel at the end, a tie rounds to even."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2.0)


def is_color(value: object) -> bool:
    """Tell whether `value` is three whole numbers 0-255."""
    if not isinstance(value, tuple) or len(value) != 3:
        return False
    return all(isinstance(level, int) and not isinstance(level, bool) and 0 <= level <= 255 for level in value)


def crop_from_json(value: object) -> tuple[tuple[int, int] | None, tuple[int, int, int]]:
    """Return the crop and its fill; an absent fill is black."""
    if not isinstance(value, Mapping) or "fill" not in value:
        return size_from_json("preprocessing 'crop'", value), BLACK
    crop = with_keys("preprocessing 'crop'", value, {"height", "width", "fill"})
    fill = crop["fill"]
    if not isinstance(fill, list) or not is_color(tuple(fill)) or tuple(fill) == BLACK:
        raise ValueError(f"preprocessing 'crop' fill: got {fill!r}, expected three whole numbers 0-255, not all 0")
    red, green, blue = fill
    return (crop["height"], crop["width"]), (red, green, blue)
