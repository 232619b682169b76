"""Prepared batches of images, behind a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from resnet_export.console.reporter import Reporter
from runtimes.counted import counted
from runtimes.preprocessing.image_batches import Batch, image_batches
from runtimes.preprocessing.transform import Preprocessing

PIXELS_PER_BATCH = 2 * 224 * 224
"""Calibration and comparison take this many input pixels at a time: two images at 224, 64 at 32. A ResNet-50 at 224
leaves 36 MB of activations per image, so memory stays small; larger batches are no faster on a CPU."""
MAX_BATCH = 64

MAX_TOLD = 5
"""Unreadable images that are named; all are counted."""


def batch_size_for(preprocessing: Preprocessing) -> int:
    """Return how many images go through a model at a time."""
    height, width = preprocessing.input_size
    return max(1, min(MAX_BATCH, PIXELS_PER_BATCH // (height * width)))


def stream(
    what: str, paths: Sequence[Path], preprocessing: Preprocessing, allowed_bad: int, reporter: Reporter
) -> Iterator[Batch]:
    """Yield prepared batches behind a progress bar; name an image that cannot be read at once, and how many at last."""
    errors: list[str] = []

    def on_error(reason: str) -> None:
        errors.append(reason)
        if len(errors) <= MAX_TOLD:
            reporter.warn(f"{what}: left out: {reason}")

    batches = image_batches(
        paths,
        preprocessing,
        batch_size=batch_size_for(preprocessing),
        on_error=on_error,
        max_bad_fraction=min(1.0, allowed_bad / len(paths)),
    )
    yield from reporter.track(what, batches, total=len(paths), sizes=lambda batch: len(batch.paths))
    if errors:
        reporter.warn(f"{what}: {len(errors)} of {counted(len(paths), 'image')} could not be read, and left out")
