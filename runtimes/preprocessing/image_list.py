"""The images of a run over many files: everything below a folder, or what a list names, in one known order."""

from __future__ import annotations

import os
from pathlib import Path

from runtimes.errors import ImageFolderError
from runtimes.preprocessing.image_folder import find_images


def list_images(source: Path) -> tuple[str, ...]:
    """Return the paths of the images, in the order of the results.

    Args:
        source: A folder, searched recursively (order as `find_images`), or a text file that names one image a line:
            relative paths begin at the current folder, empty lines are skipped, a line may come twice. A list with a
            NUL byte in it is separated by NUL instead (`find -print0`), so that names may hold newlines. Whether the
            files of a list exist is not looked at here.

    Returns:
        Paths, at least one. Names that are not UTF-8 hold surrogates, as `os.fsdecode` makes them.

    Raises:
        ImageFolderError: If the folder or list cannot be read or names no image.
    """
    if source.is_dir():
        return tuple(str(path) for path in find_images(source))
    try:
        content = source.read_bytes()
    except OSError as err:
        raise ImageFolderError(f"{source} cannot be read: {err.strerror}; give a folder or a list of images") from err
    separator = b"\0" if b"\0" in content else b"\n"
    names = (name.rstrip(b"\r") if separator == b"\n" else name for name in content.split(separator))
    paths = tuple(os.fsdecode(name) for name in names if name)
    if not paths:
        raise ImageFolderError(f"{source} names no image; expected one path a line")
    return paths
