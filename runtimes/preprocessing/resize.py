"""How a picture gets its size before the crop: to a shorter side, exactly, or into a box with its ratio kept.

Kept apart from `runtimes.preprocessing.transform`, whose JSON form takes the readers of sizes from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.errors import ImageReadError

MAX_SIDE = 65_535
"""Pixels; what a JPEG can have. Source: ITU T.81, table B.2 (sizes in 16 bits)."""


# More pixels than this after resizing is a strip (1 x 2000) blown up, not a photograph; it would fill a
# device's memory.
# Source: Pillow's MAX_IMAGE_PIXELS, a quarter of a GiB at three bytes.
_MAX_RESIZED_PIXELS = 1024**3 // 4 // 3


@dataclass(frozen=True, slots=True)
class KeepRatio:
    """A resize to a box with the picture's own aspect ratio; both sides are rounded to the nearest pixel, ties to even.

    Attributes:
        height: Of the box, in pixels.
        width: Of the box, in pixels.
        inside: True for the largest picture inside the box, False for the smallest that covers it.

    Raises:
        ValueError: If a side is not a whole number > 0.
    Source: timm 1.0.31, data/transforms.py, ResizeKeepRatio (`inside` is its `longest=1.0`).
    """

    height: int
    width: int
    inside: bool

    def __post_init__(self) -> None:
        """Check both sides."""
        if not is_size((self.height, self.width)):
            raise ValueError(f"resize: got a box {self.height!r} x {self.width!r}, expected height and width > 0")

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of a picture of `size` = (width, height) after the resize."""
        width, height = size
        choose = max if self.inside else min
        ratio = choose(height / self.height, width / self.width)
        return round(width / ratio), round(height / ratio)


Resize = int | tuple[int, int] | KeepRatio | None


def resized_size(resize: int | tuple[int, int] | KeepRatio, size: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) after the resize; to a shorter side the longer one is cut, not rounded."""
    if isinstance(resize, KeepRatio):
        return resize.resized(size)
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


DRAFT_GAP = 2.0
"""A JPEG is decoded at a reduced size with no side below this many times the resized one, so that the resize still
averages. Source: Pillow 12, `Image.thumbnail`, `reducing_gap=2.0`."""


def draft_size(resize: int | tuple[int, int] | KeepRatio) -> tuple[int, int]:
    """Return the (width, height) below which no side of a picture may be decoded, whatever the picture's shape.

    The longer side of a picture follows from its shorter one, so a square will do.
    """
    width, height = resized_size(resize, (1 << 12, 1 << 12))
    return round(width * DRAFT_GAP), round(height * DRAFT_GAP)


def check_resized(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """Raise ImageReadError when a picture of `size` = (width, height) is too long and thin for its `resized` form."""
    if 0 < resized[0] * resized[1] <= _MAX_RESIZED_PIXELS:
        return
    why = f"it would be more than {_MAX_RESIZED_PIXELS} pixels" if all(resized) else "nothing would be left of it"
    raise ImageReadError(
        f"it is {size[0]} x {size[1]} pixels; resized to {resized[0]} x {resized[1]} {why}; "
        "expected a picture that is not so long and thin, so cut it or leave it out"
    )


def json_from_resize(resize: Resize) -> dict[str, Any] | None:
    """Return what `resize_from_json` reads."""
    if isinstance(resize, KeepRatio):
        return {"inside" if resize.inside else "cover": json_from_size((resize.height, resize.width))}
    return {"shorter_side": resize} if isinstance(resize, int) else json_from_size(resize)


def json_from_size(size: tuple[int, int] | None) -> dict[str, int] | None:
    """Return what `size_from_json` reads."""
    return None if size is None else {"height": size[0], "width": size[1]}


def resize_from_json(value: object) -> Resize:
    """Read `{"shorter_side": N}`, `{"height", "width"}`, `{"inside": box}`, `{"cover": box}` or None.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, Mapping) and "shorter_side" in value:
        side: int = with_keys("preprocessing 'resize'", value, {"shorter_side"})["shorter_side"]
        if not is_side(side):
            raise ValueError(f"preprocessing 'resize': got shorter_side {side!r}, expected a whole number > 0")
        return side
    for kind in ("inside", "cover"):
        if isinstance(value, Mapping) and kind in value:
            what = f"preprocessing 'resize' {kind!r}"
            box = with_keys("preprocessing 'resize'", value, {kind})[kind]
            size = with_keys(what, box, {"height", "width"})
            return KeepRatio(size["height"], size["width"], inside=kind == "inside")
    return size_from_json("preprocessing 'resize' without 'shorter_side'", value)


def size_from_json(what: str, value: object) -> tuple[int, int] | None:
    """Read `{"height", "width"}` or None; the values are checked by whom they are for.

    Raises:
        ValueError: If there is another key, or one is missing; `what` names the place.
    """
    if value is None:
        return None
    size = with_keys(what, value, {"height", "width"})
    return size["height"], size["width"]


def is_side(value: object) -> bool:
    """Tell whether `value` is a whole number of pixels > 0, at most `MAX_SIDE`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIDE


def is_size(value: object) -> bool:
    """Tell whether `value` is (height, width), both > 0."""
    return isinstance(value, tuple) and len(value) == 2 and all(is_side(side) for side in value)


def with_keys(what: str, data: object, expected: set[str]) -> Mapping[str, Any]:
    """Return `data` if it is a JSON object with exactly the expected keys."""
    if not isinstance(data, Mapping):
        got = type(data).__name__  # in a file, so a wrong type is a wrong value
        raise ValueError(f"{what}: got {got}, expected an object with the keys {sorted(expected)}")  # noqa: TRY004
    if missing := sorted(expected - data.keys()):
        raise ValueError(f"{what}: missing {missing}; expected exactly the keys {sorted(expected)}")
    if unknown := sorted(map(str, data.keys() - expected)):
        raise ValueError(f"{what}: unknown {unknown}; expected exactly the keys {sorted(expected)}")
    return data
