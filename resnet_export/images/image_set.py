"""Where a job's images come from, whatever form they were given in: each becomes files below one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from calibration.errors import CalibrationError
from exporter.errors import ExportError
from resnet_export.console.reporter import Reporter
from runtimes.errors import RuntimeAdapterError
from runtimes.preprocessing.image_folder import files_passed_over, find_images, passed_over_told

LABELS_OF_NOTHING = "--val-labels says the classes of --val; give both"


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """Images that are listed when a job begins, and read one batch at a time.

    Attributes:
        root: Folder that all of them lie below; its sub-folders are their classes.
        shown: What messages and reports call the source.
        listed: The files; None for every image below `root`.
        is_temporary: Whether `root` was made for the job, so that its name tells the user nothing.
        left_out: Of a temporary `root`: files of the source that are no pictures by their names, by extension.
    """

    root: Path
    shown: str
    listed: tuple[Path, ...] | None = None
    is_temporary: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def paths(self) -> tuple[Path, ...]:
        """Return the files, at least one.

        Raises:
            ImageFolderError: If `root` is missing, unreadable, or holds no image.
        """
        return find_images(self.root) if self.listed is None else self.listed

    def passed_over(self) -> Mapping[str, int]:
        """Return how many files are no pictures by their names, by extension; none of a list of files.

        Raises:
            ImageFolderError: If `root` is missing or unreadable.
        """
        return self.left_out if self.is_temporary or self.listed is not None else files_passed_over(self.root)


def said_of_no_images(val: ImageSource | None, labels: object, num_val: int | None) -> Iterator[str]:
    """Yield what options say of validation images that nobody gave."""
    if val is None and labels is not None:
        yield LABELS_OF_NOTHING
    if val is None and num_val is not None:
        yield "--num-val counts images of --val DIR; give both"


def warn_of_files_passed_over(reporter: Reporter, *sources: ImageSource | None) -> None:
    """Warn once for each source that holds files which are no pictures by their names, such as `.heic`.

    Raises:
        ImageFolderError: If a source is missing or unreadable.
    """
    for source in sources:
        if source is not None and (others := source.passed_over()):
            reporter.warn(passed_over_told(source.shown, others))


@contextmanager
def called_as_given(reporter: Reporter, *sources: ImageSource | None) -> Iterator[None]:
    """Name images in warnings and errors as the user gave them: FILE of a link, else SOURCE/PICTURE."""
    named = partial(_as_given, [source for source in sources if source is not None and source.is_temporary])
    try:
        with reporter.warnings_named(named):
            yield
    except (CalibrationError, ExportError, RuntimeAdapterError) as err:
        err.args = (named(str(err)),)
        raise


def _as_given(sources: Sequence[ImageSource], told: str) -> str:
    """Return a message with the names that the user gave for every path below the folders of `sources`."""
    for source in sources:
        told = re.sub(re.escape(str(source.root)) + r"(/[^'\n]*)?", partial(_given_name, source), told)
    return told


def _given_name(source: ImageSource, found: re.Match[str]) -> str:
    path = Path(found[0])
    return str(path.readlink()) if path.is_symlink() else source.shown + (found[1] or "")


def image_folder(path: Path) -> ImageSource:
    """Return the images below a folder."""
    return ImageSource(path, str(path))


def image_files(paths: Sequence[Path]) -> ImageSource:
    """Return the images of a list of files; folders that they lie in below a common one are their classes."""
    found = tuple(Path(os.path.abspath(path)) for path in paths)
    root = Path(os.path.commonpath([path.parent for path in found]))
    return ImageSource(root, f"{len(found)} files below {root}", found)
