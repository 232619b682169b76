"""The images of a run over many files: everything below a folder, or what a list names, in one known order."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from runtimes.errors import ImageFolderError
from runtimes.io.stand_in import stand_in
from runtimes.preprocessing.image_folder import IMAGE_EXTENSIONS, find_images

_NEVER_IN_A_LIST = bytes(set(range(32)) - set(b"\0\t\n\r"))
"""Control characters: a file name may hold them, but hardly does; an archive or a table begins with some."""

_HEAD_BYTES = 1 << 16


def list_images(source: Path) -> tuple[str, ...]:
    """Return the paths of the images, in the order of the results.

    Args:
        source: A folder, searched recursively (order as `find_images`); one image, known by its name; or a text file
            that names one image a line: relative paths begin at the current folder, empty lines are skipped, a line
            may come twice. A list with a NUL byte in it is separated by NUL instead (`find -print0`), so that names
            may hold newlines. Whether the files exist is not looked at here.

    Returns:
        Paths, at least one. Names that are not UTF-8 hold surrogates, as `os.fsdecode` makes them.

    Raises:
        ImageFolderError: If the folder or list cannot be read, names no image, or is no list (an archive, a table).
    """
    if source.is_dir():
        return tuple(str(path) for path in find_images(source))
    if source.name.lower().endswith(IMAGE_EXTENSIONS):
        return (str(source),)
    content = _list_content(source)
    separator = b"\0" if b"\0" in content else b"\n"
    names = (name.rstrip(b"\r") if separator == b"\n" else name for name in content.split(separator))
    paths = tuple(os.fsdecode(name) for name in names if name)
    if not paths:
        raise ImageFolderError(f"{source} names no image; expected one path a line")
    return paths


def _list_content(source: Path) -> bytes:
    """Return a list's bytes without a byte order mark; UTF-16, which Windows' shell writes, as the file system's."""
    try:
        with source.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return os.fsencode((head + file.read()).decode("utf-16"))
            if told := stand_in(head):
                raise ImageFolderError(f"{source}: {told}")
            if len(head.translate(None, _NEVER_IN_A_LIST)) < len(head):
                raise ImageFolderError(
                    f"{source} is no list of images: it holds bytes that are no text; expected a folder, an image, or "
                    "a file with one path a line; an archive or a table must be unpacked to a folder"
                )
            return (head + file.read()).removeprefix(codecs.BOM_UTF8)
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise ImageFolderError(f"{source} cannot be read: {reason}; give a folder or a list of images") from err
