"""Which images calibrate, which measure: settled before anything heavy runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.observers import sample_images
from resnet_export.export_job.context.options import ExportOptions
from runtimes.counted import counted

MAX_BAD_FRACTION = 0.01
"""Share of a folder's images that may be unreadable."""


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """The images of one run.

    Attributes:
        calibration: Images that set ranges; empty without --int8.
        measured: Images on which accuracy figures are taken; in none of the above.
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
    calib = () if options.calib is None else options.calib.paths()
    val = () if options.val is None else options.val.paths()
    if options.int8 and options.calib is not None:
        sample_images.check_enough(len(calib), options.calib.shown, force=options.force)
        sample_images.check_enough(options.num_calib, f"--num-calib {options.num_calib}", force=options.force)
    split = sample_images.ImageSplit((), ())
    if options.calib is not None:
        split = sample_images.split_images(
            options.calib.root,
            calib,
            num_calibration=options.num_calib,
            hold_out=options.val is None,
            max_held_out=sample_images.MAX_HELD_OUT
            if options.budget is None
            else sample_images.MAX_HELD_OUT_FOR_BUDGET,
        )
    calibration = split.calibration if options.int8 else ()
    allowed_bad = int(MAX_BAD_FRACTION * max(len(calib), len(val)))
    if options.val is not None:
        apart = sample_images.leave_out_copies(calibration, val)
        measured = tuple(sample_images.proportionally_ordered(options.val.root, apart.validation)[: options.num_val])
        measured_from = sample_images.drawn_in_words(len(measured), len(apart.validation), options.val.shown)
        return ChosenImages(calibration, measured, measured_from, allowed_bad, apart.copies)
    source = "" if options.calib is None else f" of {options.calib.shown}, held out"
    return ChosenImages(calibration, split.held_out, f"{counted(len(split.held_out), 'image')}{source}", allowed_bad)
