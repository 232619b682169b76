"""Which images calibrate, which measure, and which class each is: settled before anything heavy runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from calibration.sample_images import (
    MAX_HELD_OUT,
    MAX_HELD_OUT_FOR_BUDGET,
    ImageSplit,
    check_enough,
    evenly_ordered,
    leave_out_copies,
    split_images,
)
from exporter.cli.arguments import ExportOptions
from runtimes.errors import ImageFolderError
from runtimes.image_folder import class_of, find_images
from runtimes.match_labels import match_folders

MAX_BAD_FRACTION = 0.01
"""Share of a folder's images that may be unreadable."""


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """The images of one run.

    Attributes:
        calibration: Images that set ranges; empty without --int8.
        measured: Images on which accuracy figures are taken; in none of the above.
        measured_from: Where those come from, in words.
        allowed_bad: How many unreadable images are tolerated, in each of the two.
        copies: (validation image, calibration image) that are equal and were left out of `measured`.
    """

    calibration: tuple[Path, ...]
    measured: tuple[Path, ...]
    measured_from: str
    allowed_bad: int
    copies: tuple[tuple[Path, Path], ...] = ()


def choose_images(options: ExportOptions) -> ChosenImages:
    """List the folders and split them.

    Raises:
        ImageFolderError: If a folder is missing, unreadable or empty.
        CalibrationError: If there are too few images, or both folders share more than a few.
    """
    calib = () if options.calib is None else find_images(options.calib)
    val = () if options.val is None else find_images(options.val)
    if options.int8 and options.calib is not None:
        check_enough(len(calib), options.calib, force=options.force)
    split = ImageSplit((), ())
    if options.calib is not None:
        split = split_images(
            options.calib,
            calib,
            num_calibration=options.num_calib,
            hold_out=options.val is None,
            max_held_out=MAX_HELD_OUT if options.budget is None else MAX_HELD_OUT_FOR_BUDGET,
        )
    calibration = split.calibration if options.int8 else ()
    allowed_bad = int(MAX_BAD_FRACTION * max(len(calib), len(val)))
    if options.val is not None:
        apart = leave_out_copies(calibration, val)
        measured = tuple(evenly_ordered(options.val, apart.validation)[: options.num_val])
        measured_from = f"{len(measured)} images of {options.val}"
        return ChosenImages(calibration, measured, measured_from, allowed_bad, apart.copies)
    measured_from = f"{len(split.held_out)} images of {options.calib}, held out"
    return ChosenImages(calibration, split.held_out, measured_from, allowed_bad)


@dataclass(frozen=True, slots=True)
class ClassIndex:
    """Image to class index, and how the folders were matched to the classes."""

    of: Mapping[Path, int]
    how: str


def class_indices(root: Path, paths: tuple[Path, ...], labels: tuple[str, ...] | None, num_classes: int) -> ClassIndex:
    """Return the class of every validation image.

    Raises:
        ImageFolderError: If images lie outside class folders, or the folders do not match the classes.
    """
    folders = {path: class_of(root, path) for path in paths}
    if loose := [path for path, folder in folders.items() if folder is None]:
        raise ImageFolderError(
            f"{root}: {len(loose)} images, first {loose[0].name!r}, are in no class folder; --val takes one folder "
            "per class (to compare without labels, leave --val out: images of --calib are then held out)"
        )
    # All folders of the validation set count, also when --num-val keeps only some images.
    names = sorted({name for path in find_images(root) if (name := class_of(root, path)) is not None})
    match = match_folders(names, labels, num_classes)
    return ClassIndex({path: match.index_of[str(folder)] for path, folder in folders.items()}, match.how)
