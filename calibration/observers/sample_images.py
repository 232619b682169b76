"""Choose calibration images evenly over the classes, and others to measure on in proportion to them.

No accuracy figure may come from images that set the ranges. So, when no validation folder is given, some images of
the calibration folder are held out before anything runs.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.errors import CalibrationError
from runtimes.bundle.manifest import file_entry
from runtimes.counted import counted
from runtimes.preprocessing.image_folder import class_of

SEED = 20_151_210
"""Fixed so that two runs see the same images; recorded in calibration.json."""

MIN_IMAGES = 32
"""Below this many images a range says more about the images than about the model: of 32, a value seen in 10 % of
all images is missed with probability 0.9**32 = 3 %; of 10 images with 35 %."""

MAX_HELD_OUT = 64
"""Images held out when no validation folder is given, at most; never more than a quarter of the folder."""

MAX_HELD_OUT_FOR_BUDGET = 1024
"""The same where an accuracy budget has to hold: 64 images cannot show an agreement of 99 %, that takes 381."""

_HELD_OUT_SHARE = 4
"""One in this many images may be held out."""


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Images that set the ranges, and images that only measure; no image is in both."""

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]


def split_images(
    root: Path, paths: Sequence[Path], *, num_calibration: int, hold_out: bool, max_held_out: int = MAX_HELD_OUT
) -> ImageSplit:
    """Split the images of a calibration folder.

    Args:
        root: The folder; its sub-folders are the classes.
        paths: All images found in it.
        num_calibration: How many to calibrate with, at most.
        hold_out: Whether to keep images apart to measure on: of every class its share, so that they are like the
            folder as a whole.
        max_held_out: How many at most; never more than a quarter of the folder.
    """
    groups = _shuffled_classes(root, paths)
    num_held_out = min(max_held_out, len(paths) // _HELD_OUT_SHARE) if hold_out else 0
    shares = _shares([len(group) for group in groups], num_held_out)
    kept = [group[share:] for group, share in zip(groups, shares, strict=True)]
    held_out = [group[:share] for group, share in zip(groups, shares, strict=True)]
    return ImageSplit(tuple(_in_turn(kept)[:num_calibration]), tuple(_in_turn(held_out)))


def proportionally_ordered(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Return all paths in an order of which every prefix holds the classes in proportion to their images.

    Image k of the n of a class gets a random place between k / n and (k + 1) / n, and places decide: a class is off
    its share of a prefix by less than one image, and which of many small classes come first is chance, not their name.
    Fixed seed. Accuracy on a prefix estimates accuracy on all; on an even one (`split_images`) it would be another
    figure, the mean over classes.
    """
    generator = random.Random(SEED)
    placed: list[tuple[float, Path]] = []
    for group in _shuffled_classes(root, paths):
        placed += [((turn + generator.random()) / len(group), path) for turn, path in enumerate(group)]
    return [path for _, path in sorted(placed)]


def drawn_in_words(num_drawn: int, num_images: int, source: object) -> str:
    """Return how many of how many validation images are measured, for reports."""
    if num_drawn == num_images:
        return f"{counted(num_images, 'image')} of {source}"
    return f"{num_drawn:,} of {counted(num_images, 'image')} of {source}, drawn in proportion to its classes"


def _shuffled_classes(root: Path, paths: Sequence[Path]) -> list[list[Path]]:
    """Return the images of each class, classes sorted by name, images shuffled with the fixed seed."""
    generator = random.Random(SEED)
    by_class: dict[str, list[Path]] = {}
    for path in paths:
        by_class.setdefault(class_of(root, path) or "", []).append(path)
    groups = [group for _, group in sorted(by_class.items())]
    for group in groups:
        generator.shuffle(group)
    return groups


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split `total` over groups in proportion to their sizes, rounded so that the parts sum to it."""
    ends = [0, *itertools.accumulate(sizes)]
    cuts = [total * end // max(ends[-1], 1) for end in ends]
    return [high - low for low, high in itertools.pairwise(cuts)]


def _in_turn(groups: Sequence[Sequence[Path]]) -> list[Path]:
    """Return the first of every group, then the second of every group that has one, and so on."""
    longest = max((len(group) for group in groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def check_enough(num_images: int, source: object, *, force: bool | None) -> None:
    """Raise when a calibration folder has too few images.

    Raises:
        CalibrationError: Below `MIN_IMAGES`, unless `force` is set.
    """
    if num_images < MIN_IMAGES and not force:
        raise CalibrationError(
            f"{source}: {counted(num_images, 'image is', 'images are')} too few to calibrate with, expected at "
            f"least {MIN_IMAGES} (500 are better): ranges from a handful of images clip what the others hold"
            + ("" if force is None else ". --force calibrates all the same")
        )


def image_list_sha256(root: Path, paths: Iterable[Path]) -> str:
    """Return a hash of which images were used: names below `root` and contents, in order.

    Files that cannot be opened were not used and are left out.
    """
    digest = hashlib.sha256()
    for path in filter(_can_be_opened, paths):
        digest.update(os.fsencode(path.relative_to(root).as_posix()) + b"\0" + content_sha256(path))
    return digest.hexdigest()


def _can_be_opened(path: Path) -> bool:
    """Tell whether `path` is a file with something in it; what is not is for `read_image` to report."""
    return path.is_file() and path.stat().st_size > 0 and os.access(path, os.R_OK)


def content_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes."""
    return bytes.fromhex(file_entry(path).sha256)  # in pieces: a file named .jpg may have gigabytes


@dataclass(frozen=True, slots=True)
class DisjointImages:
    """Validation images of which no copy is a calibration image, and the (validation, calibration) pairs left out."""

    validation: tuple[Path, ...]
    copies: tuple[tuple[Path, Path], ...]


def leave_out_copies(calibration: Sequence[Path], validation: Sequence[Path]) -> DisjointImages:
    """Return the validation images that calibration does not see, and the copies that were left out.

    No accuracy figure may come from images that set the ranges; what is left is measured, and the count is told.

    Files of equal size are compared by content, so that a copy under another name is found. Files that cannot be
    opened (a broken link, no bytes, no permission) are in neither set: reading them reports them.

    Raises:
        CalibrationError: If no validation image is left.
    """
    copies = _copies(calibration, validation)
    if copies and len(copies) == len(validation):
        raise CalibrationError(
            f"all {len(validation)} validation images are also calibration images, first {str(copies[0][0])!r} = "
            f"{str(copies[0][1])!r}; accuracy measured on them would flatter INT8: give folders that share no image, "
            "or leave --val out, and images of --calib are held out"
        )
    left_out = {path for path, _ in copies}
    return DisjointImages(tuple(path for path in validation if path not in left_out), copies)


def _copies(calibration: Sequence[Path], validation: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Return (validation image, calibration image) for every equal pair, one per validation image."""
    by_size: dict[int, list[Path]] = {}
    for path in filter(_can_be_opened, calibration):
        by_size.setdefault(path.stat().st_size, []).append(path)
    known: dict[bytes, Path] = {}
    hashed: set[int] = set()
    copies: list[tuple[Path, Path]] = []
    for path in filter(_can_be_opened, validation):
        size = path.stat().st_size
        if size not in by_size:
            continue
        if size not in hashed:
            hashed.add(size)
            known.update({content_sha256(other): other for other in by_size[size]})
        if other := known.get(content_sha256(path)):
            copies.append((path, other))
    return tuple(copies)
