"""Write the digits' calibration and validation images as PNG files, one folder per digit.

    python examples/digits/write_images.py OUT          # OUT/{calib,val}/<digit>/NNNN.png

NNNN is the image's index in the data set. Each file appears whole, by a rename, and a file that is there
already is left alone: a second run finishes what a first one began.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from PIL import Image
from split import load_pictures, split_digits


def write_images(out: Path) -> tuple[int, int]:
    """Write the images that are not there yet.

    Args:
        out: The folder to hold `calib` and `val`; made if missing.

    Returns:
        (files written, files that were there).
    """
    pictures, labels = load_pictures()
    split = split_digits(labels)
    num_written = num_kept = 0
    for name, indices in (("calib", split.calib), ("val", split.val)):
        for index in indices:
            path = out / name / str(labels[index]) / f"{index:04d}.png"
            if path.is_file():
                num_kept += 1
            else:
                _save_whole(pictures[index], path)
                num_written += 1
    return num_written, num_kept


def _save_whole(picture: Image.Image, path: Path) -> None:
    """Save the picture beside `path`, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write 256 calibration and 360 validation images of digits, 8x8 pixels, as PNG files.",
        epilog="Files that are there already are left alone.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write calib/ and val/ into")
    out = parser.parse_args().out
    num_written, num_kept = write_images(out)
    print(f"{out}: wrote {num_written} images, {num_kept} were there")


if __name__ == "__main__":
    main()
