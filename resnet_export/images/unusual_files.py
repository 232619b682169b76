"""Files that no two programs read alike: transparent pictures and 16-bit ones. Only their heads are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from runtimes.preprocessing.decode import formats_here

MAX_LOOKED_AT = 512
"""Files whose heads are read, evenly over all of them."""


def unusual_files(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a sentence for each kind of file that is read here otherwise than by torchvision's `ImageFolder`."""
    looked_at = paths[:: max(1, len(paths) // MAX_LOOKED_AT)]
    transparent = deep = 0
    for path in looked_at:
        mode, is_transparent = _head(path)
        deep += mode.startswith("I")
        transparent += is_transparent and not mode.startswith("I")
    lines = []
    if transparent:
        lines.append(
            f"{transparent} of {len(looked_at)} pictures looked at are transparent: laid over white, as viewers show "
            "them (torchvision's ImageFolder drops the transparency and shows the colors beneath)"
        )
    if deep:
        lines.append(
            f"{deep} of {len(looked_at)} pictures looked at have 16 bits: scaled by 1/257 (Pillow's own conversion "
            "clips them to white)"
        )
    return tuple(lines)


def _head(path: Path) -> tuple[str, bool]:
    """Return Pillow's mode and whether there is transparency; an empty mode for what cannot be opened."""
    if not path.is_file():  # a pipe of that name would be waited for
        return "", False
    try:
        with Image.open(path, formats=formats_here()) as image:
            return image.mode, image.has_transparency_data
    except Exception:  # damaged files fail in as many ways as there are decoders
        return "", False
