"""Images as a Python user has them, to a job's image source."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_export.images.gather import gathered_into, is_folder_of_pictures
from resnet_export.images.image_set import ImageSource, image_files, image_folder
from resnet_export.images.spill import EXPECTED, spill_pictures
from resnet_export.images.temporary_folder import TemporaryFolder
from runtimes.argument_kinds import StrPath
from runtimes.preprocessing.image_input import array_of

Images = StrPath | Iterable[Any]
"""A folder, a list of files, or pictures: arrays uint8 [H, W, 3] in RGB, Pillow images, or prepared float32 arrays."""


def image_source(given: Images, what: str, temporary: TemporaryFolder) -> ImageSource:
    """Return where a job finds the images.

    Args:
        given: A folder, or a file that `resnet_export.images.gather` reads; a list of files; or pictures, one
            array or an iterable of them, which is read once.
        what: The argument's name, for messages.
        temporary: Where pictures from memory are kept while the job runs.

    Raises:
        TypeError: If it is none of these.
        ValueError: If there is nothing in it.
        OSError: If there is no temporary folder, or too little room in it.
    """
    if isinstance(given, (str, os.PathLike)):
        if is_folder_of_pictures(Path(given)):
            return image_folder(Path(given))
        return gathered_into(temporary.below(what), Path(given))
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, (str, os.PathLike)) for one in given):
        return image_files([Path(path) for path in given])
    if isinstance(given, (bytes, bytearray, dict)) or (not hasattr(given, "__iter__") and array_of(given) is None):
        raise TypeError(f"{what}: got {type(given).__name__}, expected a folder, a list of files, or {EXPECTED}")
    folder = temporary.below(what)
    paths = spill_pictures(given, folder, what)
    return ImageSource(folder, f"{what} ({len(paths)} pictures from memory)", paths, is_temporary=True)
