"""An image file as the RGB picture that a person would see.

Every kind of file has one reading here, the same for calibration, evaluation and the device:

- EXIF orientation is applied; of an animation the first frame is taken.
- Whatever has transparency is laid over white. torchvision's ImageFolder calls `convert("RGB")`, which drops
  the alpha channel and shows the colors hidden beneath it (often black, or an editor's leftovers).
- 16-bit grey is scaled by 1/257 and rounded (`grey16`). Pillow's own `convert` clips it, so all but the darkest
  1/256 is white. In a TIFF where 0 is white it is turned.
- Colour profiles are ignored, as torchvision's and the usual training pipelines ignore them.

Only the formats in `READ_FORMATS` are opened: Pillow decides by content, and a PostScript file named `x.jpg`
would otherwise start Ghostscript.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from runtimes.errors import ImageReadError
from runtimes.io.stand_in import stand_in
from runtimes.preprocessing.grey16 import rgb_from_grey16

READ_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names; `formats_here` leaves out what this Pillow does not know (AVIF before 11.3)."""

_ORIENTATION_TAG = 0x0112
# Source: EXIF 2.32, table 6 (tag Orientation), as the turn that brings row 0 to the top and column 0 to the
# left.
_TURN_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def formats_here() -> tuple[str, ...]:
    """Return those of `READ_FORMATS` that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in READ_FORMATS if name in Image.OPEN)


def read_image(path: Path, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as mode RGB, without metadata; the file is closed on return, whatever happens.

    Args:
        path: A file of one of `READ_FORMATS`; its name and extension do not matter.
        draft: (width, height): a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, the smallest that has no side
            below these. Faster, and the pixels differ a little; None decodes every pixel.

    Raises:
        ImageReadError: If there is no such file, it cannot be opened, is not an image, is damaged, has more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or has no one right reading as 8-bit RGB.
    """
    with _reasons(repr(str(path))):
        _check_regular_file(path)
        with path.open("rb") as file:
            return _decode(file, draft)


def image_from_bytes(content: bytes, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """Read an image that is in memory as the bytes of a file; else as `read_image`.

    Raises:
        ImageReadError: As for `read_image`.
    """
    with _reasons(f"of {len(content)} bytes in memory"):
        if not content:
            raise ImageReadError("there are no bytes; expected those of an image file")
        return _decode(io.BytesIO(content), draft)


@contextmanager
def _reasons(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageReadError` that names the image."""
    try:
        yield
    except ImageReadError as err:
        raise ImageReadError(f"cannot read image {what}: {err}") from err
    except Exception as err:  # Pillow's decoders raise nearly every built-in error on damaged bytes
        # (OSError, SyntaxError, ValueError, struct.error, IndexError, ...): none may end a run over many files.
        raise ImageReadError(f"cannot read image {what}: {_plain_reason(err)}") from err


def _decode(file: IO[bytes], draft: tuple[int, int] | None) -> Image.Image:
    image: Image.Image
    with _opened(file) as image:
        check_pixel_count(image)
        if draft is not None and image.mode == "RGB":
            width, height = draft if exif_orientation(image) < 5 else draft[::-1]  # 5 and up lie on their side
            image.draft("RGB", (width, height))
        image.load()
        if image.mode == "RGB" and not image.has_transparency_data and exif_orientation(image) == 1:
            image.info = {}
            whole: Image.Image = image
            return whole  # nobody else has it, so nothing needs a copy: 36 MB of 12 megapixels
        return rgb_from_image(image, name=str(getattr(file, "name", "a picture in memory")))


def _opened(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=formats_here())
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(256)
        if told := stand_in(start):
            raise ImageReadError(told) from None
        if start[:4] in (b"II*\0", b"MM\0*"):
            raise ImageReadError(
                "it is a TIFF of a kind that is not read (its bits per sample, its sample format, or 0 as white in "
                "big-endian 16 bits); save it as 8-bit or 16-bit with 0 as black"
            ) from None
        raise


def rgb_from_image(image: Image.Image, *, name: str = "a picture") -> Image.Image:
    """Return an opened image as a person would see it; `image` keeps its pixels and its mode.

    Args:
        image: Any Pillow image. It is decoded here if it was not yet, so Pillow's own errors can come from
            this call; `read_image` turns them into `ImageReadError`.
        name: What to call it in the log.

    Returns:
        A new image of mode RGB, without metadata: calling this again changes nothing.

    Raises:
        ImageReadError: If the mode has no one right reading as 8-bit RGB (floating point, integers beyond 16
            bits, signed, Lab).
    """
    image.load()  # first, because the TIFF reader turns the picture and forgets its orientation while loading
    rgb = _flattened(image, name)
    turn = _TURN_OF_ORIENTATION.get(exif_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _check_regular_file(path: Path) -> None:
    """Refuse what would fail less clearly later, or (a pipe) wait forever."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageReadError("it is a folder; give the path of an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError("it is a pipe or a device; give the path of an image file")
    if status.st_size == 0:
        raise ImageReadError("the file is empty (0 bytes); copy it again from its source")


def check_pixel_count(image: Image.Image) -> None:
    """Make Pillow's warning an error without `warnings.catch_warnings`, which is not thread-safe."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageReadError(
            f"got {image.width} x {image.height} pixels, expected at most {limit} (a small file can be made "
            "to fill the memory); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if the file is trusted"
        )


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read, as viewers do.

    `ImageOps.exif_transpose` is not used because it also rewrites the EXIF block, and fails on blocks with a
    bad tag that has nothing to do with the orientation.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata fails in as many ways as damaged pixels, but the picture is whole
        return 1
    return orientation if orientation in _TURN_OF_ORIENTATION else 1


def _flattened(image: Image.Image, name: str) -> Image.Image:
    """Return a new RGB image: 16-bit scaled to 8, transparency laid over white, color space converted."""
    if image.mode == "F":
        raise ImageReadError(
            "its pixels are floating point, whose black and white are not known; save it as 8-bit or 16-bit"
        )
    if image.mode == "LAB":
        raise ImageReadError("its colors are Lab, which needs a color profile to show; save it as RGB")
    if image.mode.startswith("I"):
        return rgb_from_grey16(image, name=name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _plain_reason(err: Exception) -> str:
    """Say in plain words why a file could not be read."""
    if isinstance(err, FileNotFoundError):
        return "there is no such file"
    if isinstance(err, PermissionError):
        return "permission denied; make it readable for this user"
    if isinstance(err, UnidentifiedImageError):
        return f"it is not an image, or is damaged at its start; expected one of {', '.join(formats_here())}"
    if isinstance(err, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has too many pixels ({err}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if it is trusted"
    if isinstance(err, MemoryError):
        return "there was not enough memory to decode it; shrink it, or check whether the file is damaged"
    return f"it is damaged or cut short ({type(err).__name__}: {err}); copy it again from its source"
