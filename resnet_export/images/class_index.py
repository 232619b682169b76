"""Which class each validation image belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_export.images.image_set import ImageSource
from runtimes.errors import ImageFolderError
from runtimes.preprocessing.class_folders import match_folders
from runtimes.preprocessing.image_folder import class_of, find_images


@dataclass(frozen=True, slots=True)
class ClassIndex:
    """Image to class index, and how the folders were matched to the classes."""

    of: Mapping[Path, int]
    how: str


def class_indices(
    source: ImageSource,
    paths: tuple[Path, ...],
    labels: tuple[str, ...] | None,
    num_classes: int,
    given: Sequence[int] | None = None,
) -> ClassIndex | None:
    """Return the class of every validation image; None where no image lies in a class folder, so nobody says.

    Args:
        source: Where the images come from.
        paths: Those that are used.
        labels: Names of the classes, where somebody named them.
        num_classes: How many there are.
        given: Class index of each image of `source`; where None the images' folders say.

    Raises:
        ImageFolderError: If only some images lie outside class folders, the folders do not match the classes, or what
            is given is not one index of a class for each image.
    """
    if given is not None:
        return _classes_from_labels(source.paths(), given, num_classes)
    root = source.root
    folders = {path: class_of(root, path) for path in paths}
    if all(folder is None for folder in folders.values()):
        return None
    if loose := [path for path, folder in folders.items() if folder is None]:
        raise ImageFolderError(
            f"{root}: {len(loose)} images, first {loose[0].name!r}, are in no class folder, the others are; --val "
            "takes one folder per class, or a folder without class folders (agreement and SQNR without top-1), or "
            "labels in a file with --val-labels"
        )
    # All folders of the validation set count, also when --num-val keeps only some images.
    names = sorted({name for path in find_images(root) if (name := class_of(root, path)) is not None})
    match = match_folders(names, labels, num_classes)
    return ClassIndex({path: match.index_of[str(folder)] for path, folder in folders.items()}, match.how)


def _classes_from_labels(paths: Sequence[Path], labels: Sequence[int], num_classes: int) -> ClassIndex:
    if len(labels) != len(paths):
        raise ImageFolderError(f"val_labels: got {len(labels)} for {len(paths)} images, expected one class index each")
    if wrong := [label for label in labels if not 0 <= label < num_classes]:
        raise ImageFolderError(f"val_labels: got class {wrong[0]}, expected 0 to {num_classes - 1}")
    return ClassIndex(dict(zip(paths, labels, strict=True)), f"{len(labels)} class indices were given with the images.")
