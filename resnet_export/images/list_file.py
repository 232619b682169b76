"""A text or CSV file that names one picture a line, with or without its label.

    images/0001.jpg
    images/0001.jpg 65              ImageNet's val.txt: file name, class index
    path,label                      CSV with a header
    ILSVRC2012_val_00000001,n01751748 111 108 441 193      Kaggle's LOC_val_solution.csv

Relative paths begin at the list's own folder, or at the current one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from resnet_export.images.picture import Picture
from runtimes.errors import ImageFolderError
from runtimes.io.bounded_read import read_plain_file
from runtimes.preprocessing.image_folder import IMAGE_EXTENSIONS

LISTS = (".txt", ".csv", ".tsv", ".lst")
_MAX_BYTES = 1 << 30
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "imageid", "id", "name")
_LABEL_COLUMNS = ("label", "class", "class_id", "class_index", "class_name", "target", "category", "predictionstring")


def list_pictures(path: Path) -> Iterator[Picture]:
    """Yield the pictures that a list names.

    Raises:
        ImageFolderError: If it cannot be read, names nothing, or names a file that is not there, or no picture.
    """
    for number, (name, label) in enumerate(_rows(path), 1):
        found = next((place for place in (path.parent / name, Path(name)) if place.is_file()), None)
        if found is None:
            raise ImageFolderError(
                f"{path}, entry {number}: there is no file {name!r}, neither beside the list nor in the current folder"
            )
        if not found.name.lower().endswith(IMAGE_EXTENSIONS):
            raise ImageFolderError(
                f"{path}, entry {number}: {name!r} is of no kind that is read; expected names that end in "
                f"{', '.join(IMAGE_EXTENSIONS)}"
            )
        yield Picture(found.name, label, file=found)


def labels_of_list(path: Path) -> dict[str, str]:
    """Return file name (and name without its suffix) to label.

    Raises:
        ImageFolderError: If it cannot be read or a line has no label.
    """
    result: dict[str, str] = {}
    for number, (name, label) in enumerate(_rows(path), 1):
        if label is None:
            hint = ""
            if name.isdecimal():
                hint = (
                    "; ILSVRC2012_validation_ground_truth.txt counts classes in an order of its own (ILSVRC ids), "
                    "which is not the networks': give val.txt (file name and index) or LOC_val_solution.csv"
                )
            raise ImageFolderError(f"{path}, entry {number}: {name!r} has no label, expected file name and class{hint}")
        file = Path(name).name
        result[file] = result[Path(file).stem if file.lower().endswith(IMAGE_EXTENSIONS) else file] = label
    return result


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (path, label) of every line."""
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ImageFolderError(f"{path}: names no image; expected one path a line, with or without a label")
    separator = "\t" if "\t" in lines[0] else "," if "," in lines[0] else None
    if separator is None:
        yield from map(_words, lines)
        return
    rows = list(csv.reader(lines, delimiter=separator))
    heads = [cell.strip().lower() for cell in rows[0]]
    place = next((heads.index(name) for name in _PATH_COLUMNS if name in heads), None)
    at = next((heads.index(name) for name in _LABEL_COLUMNS if name in heads), None)
    has_header = place is not None
    place, at = (place, at) if place is not None else (0, 1 if len(heads) > 1 else None)
    for row in rows[has_header:]:
        if len(row) <= place:
            raise ImageFolderError(f"{path}: line {row!r} has no path in column {place + 1}")
        label = row[at].strip() if at is not None and len(row) > at else None
        if label and at is not None and heads[at] == "predictionstring":
            label = label.split()[0]
        yield row[place].strip(), label or None


def _words(line: str) -> tuple[str, str | None]:
    """Split a line without commas: a last word behind a picture's name is its label."""
    whole = line.strip()
    head, space, last = whole.rpartition(" ")
    if space and head.strip().lower().endswith(IMAGE_EXTENSIONS) and not last.lower().endswith(IMAGE_EXTENSIONS):
        return head.strip(), last
    return whole, None


def _text(path: Path) -> str:
    try:
        return read_plain_file(path, _MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise ImageFolderError(f"{path}: cannot be read as a list ({getattr(err, 'strerror', err)})") from err
