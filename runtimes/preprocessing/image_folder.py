"""The images in a folder: which files they are, in which order, and which class each belongs to."""

from __future__ import annotations

import errno
import heapq
import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtimes.errors import ImageFolderError

IMAGE_EXTENSIONS = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".npy"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""What the names of pictures end in: every usual ending of `decode.READ_FORMATS`, and arrays."""

_BESIDE_PICTURES = (
    *(".cls", ".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".lst", ".md", ".tsv", ".txt"),
    *(".xml", ".yaml", ".yml"),
)
"""Labels, notes and what file managers leave: nobody takes them for pictures, so nobody is told of them."""

_MAX_NAMED = 5


def find_images(root: Path) -> tuple[Path, ...]:
    """Return every image file below `root`, in an order that is the same on every platform.

    An image is whatever is not a folder and has one of `IMAGE_EXTENSIONS`, in any case; nothing is opened, so
    a broken link or a damaged file is in the result and `read_image` says what is wrong with it. Names that
    begin with a dot are skipped. A folder that links lead to is read once, under its own path if below `root`.

    Returns:
        Paths that begin with `root`, sorted by their parts (by code point, folder by folder); at least one.

    Raises:
        ImageFolderError: If `root` is missing or not a folder, a folder cannot be read, or there is no image.
    """
    walk = _walked(root)
    if not walk.images:
        named = f" ({_counted(walk.others)})" if walk.others else ""
        raise ImageFolderError(
            f"no images in {str(root)!r}: got {walk.others.total()} other files{named}, expected names that end in "
            f"{', '.join(IMAGE_EXTENSIONS)}; check the path"
        )
    return tuple(sorted(walk.images, key=lambda path: path.relative_to(root).parts))


def files_passed_over(root: Path) -> Counter[str]:
    """Return how many files below `root` are no pictures by their names, by extension; labels and notes not counted.

    Raises:
        ImageFolderError: As `find_images`, but not for a folder without images.
    """
    return Counter({kind: count for kind, count in _walked(root).others.items() if kind not in _BESIDE_PICTURES})


def passed_over_told(shown: str, others: Mapping[str, int]) -> str:
    """Return the sentence about files, by extension ("" for none), that were not looked at in `shown`."""
    count = sum(others.values())
    are = "file is passed over, as its name is" if count == 1 else "files are passed over, as their names are"
    return (
        f"{shown}: {count} {are} no picture's ({_counted(others)}); "
        f"save pictures among them as PNG or JPEG; read are {', '.join(IMAGE_EXTENSIONS)}"
    )


def count_other(name: str, others: Counter[str]) -> None:
    """Count a file that is no picture by its name, unless it is what lies beside pictures as a rule (labels, notes)."""
    if (extension := _extension(name)) not in _BESIDE_PICTURES:
        others[extension] += 1


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(others: Mapping[str, int]) -> str:
    """Return numbers by extension in words, the most frequent first."""
    most = sorted(others.items(), key=lambda one: (-one[1], one[0]))
    words = [f"{count} {kind or 'without an extension'}" for kind, count in most[:_MAX_NAMED]]
    return ", ".join(words) + (f" and {len(most) - _MAX_NAMED} more kinds" if len(most) > _MAX_NAMED else "")


def class_of(root: Path, path: Path) -> str | None:
    """Return the name of the first folder between `root` and the image, None for an image directly in `root`.

    Raises:
        ValueError: If `path` does not lie below `root`.
    """
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


@dataclass(slots=True)
class _Walk:
    """State of one walk. Links wait until all real folders are read, so that a folder keeps its own path."""

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    folders: deque[Path] = field(default_factory=deque)
    links: list[tuple[tuple[str, ...], Path]] = field(default_factory=list)  # a heap
    visited: set[tuple[int, int]] = field(default_factory=set)

    def enter(self, folder: Path) -> None:
        """Queue a folder unless it was seen before, perhaps under another name."""
        try:
            status = folder.stat()
        except OSError as err:
            raise _folder_error(folder, err) from err
        if (identity := (status.st_dev, status.st_ino)) not in self.visited:
            self.visited.add(identity)
            self.folders.append(folder)


def _walked(root: Path) -> _Walk:
    walk = _Walk()
    walk.enter(root)
    while walk.folders or walk.links:
        if walk.folders:
            _list_folder(walk.folders.popleft(), walk)
        else:
            walk.enter(heapq.heappop(walk.links)[1])  # the first by path, for the same result on every platform
    return walk


def _list_folder(folder: Path, walk: _Walk) -> None:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in visible:
            path = folder / entry.name
            if not _is_folder(entry):
                _add_file(path, walk)
            elif entry.is_symlink():
                heapq.heappush(walk.links, (path.parts, path))
            else:
                walk.enter(path)
    except OSError as err:
        raise _folder_error(folder, err) from err


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as err:
        if err.errno != errno.ELOOP:
            raise
        return False  # a link to itself is no folder; named like an image, it is for read_image to report


def _add_file(path: Path, walk: _Walk) -> None:
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        walk.images.append(path)
    else:
        walk.others[_extension(path.name)] += 1


def _folder_error(folder: Path, err: OSError) -> ImageFolderError:
    if isinstance(err, FileNotFoundError):
        reason = "there is no such folder; check the path"
    elif isinstance(err, NotADirectoryError):
        reason = "it is a file; give the folder that holds the images"
    elif isinstance(err, PermissionError):
        reason = "permission denied; make it readable for this user"
    else:
        reason = str(err)
    return ImageFolderError(f"cannot read image folder {str(folder)!r}: {reason}")
