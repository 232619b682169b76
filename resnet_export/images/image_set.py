"""Where a job's images come from, whatever form they were given in: each becomes files below one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.preprocessing.image_folder import find_images


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """Images that are listed when a job begins, and read one batch at a time.

    Attributes:
        root: Folder that all of them lie below; its sub-folders are their classes.
        shown: What messages and reports call the source.
        listed: The files; None for every image below `root`.
    """

    root: Path
    shown: str
    listed: tuple[Path, ...] | None = None

    def paths(self) -> tuple[Path, ...]:
        """Return the files, at least one.

        Raises:
            ImageFolderError: If `root` is missing, unreadable, or holds no image.
        """
        return find_images(self.root) if self.listed is None else self.listed


def image_folder(path: Path) -> ImageSource:
    """Return the images below a folder."""
    return ImageSource(path, str(path))


def image_files(paths: Sequence[Path]) -> ImageSource:
    """Return the images of a list of files; folders that they lie in below a common one are their classes."""
    found = tuple(Path(os.path.abspath(path)) for path in paths)
    root = Path(os.path.commonpath([path.parent for path in found]))
    return ImageSource(root, f"{len(found)} files below {root}", found)
