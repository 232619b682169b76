"""Choose calibration images evenly over the classes, and keep others apart to measure on.

No accuracy figure may come from images that set the ranges. So, when no validation folder is given, some images of
the calibration folder are held out before anything runs.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.errors import CalibrationError
from runtimes.image_folder import class_of

SEED = 20_151_210
"""Fixed so that two runs see the same images; recorded in calibration.json."""

MIN_IMAGES = 32
"""Below this many images a range says more about the images than about the model: of 32, a value seen in 10 % of
all images is missed with probability 0.9**32 = 3 %; of 10 images with 35 %."""

MAX_HELD_OUT = 64
"""Images held out when no validation folder is given, at most; never more than a quarter of the folder."""


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Images that set the ranges, and images that only measure; no image is in both."""

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]


def split_images(root: Path, paths: Sequence[Path], *, num_calibration: int, hold_out: bool) -> ImageSplit:
    """Split the images of a calibration folder.

    Args:
        root: The folder; its sub-folders are the classes.
        paths: All images found in it.
        num_calibration: How many to calibrate with, at most.
        hold_out: Whether to keep images apart to measure on.
    """
    order = evenly_ordered(root, paths)
    num_held_out = min(MAX_HELD_OUT, len(order) // 4) if hold_out else 0
    usable = len(order) - num_held_out
    taken = min(num_calibration, usable)
    return ImageSplit(tuple(order[:taken]), tuple(order[usable:]) if num_held_out else ())


def evenly_ordered(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Return all paths, shuffled with the fixed seed, so that every prefix is even over the classes."""
    generator = random.Random(SEED)
    by_class: dict[str, list[Path]] = {}
    for path in paths:
        by_class.setdefault(class_of(root, path) or "", []).append(path)
    groups = [group for _, group in sorted(by_class.items())]
    for group in groups:
        generator.shuffle(group)
    longest = max((len(group) for group in groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def check_enough(num_images: int, folder: Path, *, force: bool) -> None:
    """Raise when a calibration folder has too few images.

    Raises:
        CalibrationError: Below `MIN_IMAGES`, unless `force` is set.
    """
    if num_images < MIN_IMAGES and not force:
        raise CalibrationError(
            f"{folder}: {num_images} images are too few to calibrate with, expected at least {MIN_IMAGES} (500 are "
            "better): ranges from a handful of images clip what the others hold. --force calibrates all the same"
        )


def image_list_sha256(root: Path, paths: Iterable[Path]) -> str:
    """Return a hash of which images were used: names below `root` and contents, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.relative_to(root).as_posix()) + b"\0" + content_sha256(path))
    return digest.hexdigest()


def content_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).digest()


def check_disjoint(calibration: Sequence[Path], validation: Sequence[Path]) -> None:
    """Raise when a file, or a copy of it, is in both sets.

    Files of equal size are compared by content, so that a copy under another name is found.

    Raises:
        CalibrationError: With the count and one pair.
    """
    by_size: dict[int, list[Path]] = {}
    for path in calibration:
        by_size.setdefault(path.stat().st_size, []).append(path)
    known: dict[bytes, Path] = {}
    hashed: set[int] = set()
    shared: list[tuple[Path, Path]] = []
    for path in validation:
        size = path.stat().st_size
        if size not in by_size:
            continue
        if size not in hashed:
            hashed.add(size)
            known.update({content_sha256(other): other for other in by_size[size]})
        if other := known.get(content_sha256(path)):
            shared.append((other, path))
    if shared:
        raise CalibrationError(
            f"{len(shared)} validation images are also calibration images, first {shared[0][1]} = {shared[0][0]}; "
            "accuracy measured on them would flatter INT8: give folders that share no image"
        )
