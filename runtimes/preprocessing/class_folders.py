"""Which class each class folder means: by the labels' names, by ImageNet's synset ids, or by sorted order."""

from __future__ import annotations

import importlib.resources
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from runtimes.counted import counted
from runtimes.errors import ImageFolderError
from runtimes.first_few import first_few

_NUM_IMAGENET_CLASSES = 1000

_LABELS = "export with --labels FILE (names, one a line, in order), or give --val-labels FILE (each picture's class)"
_UNNAMED = "the model's classes have no names, only numbers"

INDEX_PREFIX = "index="
"""How a folder's name begins that says the class by its number: `index=65`."""


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """The class of each folder, and why."""

    index_of: Mapping[str, int]
    how: str


def match_folders(folders: Sequence[str], labels: Sequence[str] | None, num_classes: int) -> ClassMatch:
    """Match class folders to a model's classes; the first of these rules that applies decides.

    0. Every folder says its class by number, `index=N`; a subset of the classes will do.
    1. Every folder is a label: by name. Capitals do not count; spaces, underscores and hyphens are equal.
    2. Every folder is an ImageNet-1k synset id and the model has 1000 classes: by id; some of them will do.
    3. No folder is a label, and there are as many folders as classes: in sorted order, as torchvision's
       ImageFolder numbers them.

    Raises:
        ValueError: If the number of labels is not `num_classes`.
        ImageFolderError: If no rule applies, only some folders are labels, or a folder means several classes.
    """
    if labels is not None and len(labels) != num_classes:
        raise ValueError(f"got {len(labels)} labels for a model of {num_classes} classes; expected one label per class")
    names = sorted(set(folders))
    if not names:
        raise ImageFolderError("got no class folders; expected one folder of images per class")
    if all(re.fullmatch(rf"{INDEX_PREFIX}\d{{1,6}}", name) for name in names):
        return _by_index({name: int(name.removeprefix(INDEX_PREFIX)) for name in names}, num_classes)
    if len(names) < num_classes and "0" in names and all(re.fullmatch(r"0|[1-9]\d{0,5}", name) for name in names):
        return _by_index({name: int(name) for name in names}, num_classes)
    candidates = _classes_by_name(names, labels or ())
    synsets = _imagenet_synsets()
    if all(len(classes) == 1 for classes in candidates.values()):
        return _match({name: classes[0] for name, classes in candidates.items()}, "by the labels' names")
    if num_classes == _NUM_IMAGENET_CLASSES and all(name in synsets for name in names):
        return _match({name: synsets[name] for name in names}, "by ImageNet-1k synset id")
    if any(candidates.values()):
        raise _name_error(candidates, num_classes)
    if len(names) != num_classes:
        raise _count_error(names, labels, num_classes)
    return _match({name: index for index, name in enumerate(names)}, _sorted_order(names, labels))


def _by_index(index_of: dict[str, int], num_classes: int) -> ClassMatch:
    if (largest := max(index_of.values())) >= num_classes:
        raise ImageFolderError(
            f"the labels go up to class {largest}, but the model has {num_classes} classes, 0 to {num_classes - 1}; "
            "give images of the model's classes, counted from 0"
        )
    return ClassMatch(MappingProxyType(index_of), f"Matched {len(index_of)} classes by their numbers.")


def _classes_by_name(names: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the classes each name may mean.

    Names that are all spelled exactly like labels mean just those: torchvision's ImageNet labels have
    "Cardigan", a dog, and "cardigan". If one is spelled otherwise, the others' spelling is no evidence.
    """
    classes = _indices_of(labels)
    if all(name in classes for name in names):
        return {name: classes[name] for name in names}
    classes = _indices_of([_fold(label) for label in labels])
    return {name: classes.get(_fold(name), ()) for name in names}


def _indices_of(labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    indices: dict[str, tuple[int, ...]] = {}
    for index, label in enumerate(labels):
        indices[label] = (*indices.get(label, ()), index)
    return indices


def _fold(name: str) -> str:
    """Return the form in which names are compared; NFC because macOS keeps accents apart from letters."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


@lru_cache(maxsize=1)
def _imagenet_synsets() -> Mapping[str, int]:
    """Return WordNet id to class index of the 1000 classes of ILSVRC 2012, in the order every model uses."""
    file = importlib.resources.files("runtimes.preprocessing") / "imagenet_synsets.txt"
    text = file.read_text(encoding="ascii")
    return MappingProxyType({synset: index for index, synset in enumerate(text.split())})


def _match(index_of: dict[str, int], how: str) -> ClassMatch:
    return ClassMatch(MappingProxyType(index_of), f"Matched {len(index_of)} class folders {how}.")


def _sorted_order(names: Sequence[str], labels: Sequence[str] | None) -> str:
    """Say why the order decided, and where sorting surprises."""
    why = _UNNAMED if labels is None else "none of them is a label"
    how = f"in sorted order, as torchvision's ImageFolder does, because {why}"
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        return f"{how}; sorted as text, not as numbers: {_some(names)}"
    return how


def _name_error(candidates: Mapping[str, tuple[int, ...]], num_classes: int) -> ImageFolderError:
    """Some folders are labels but not all, or a label is there twice: sorted order would be a guess."""
    ambiguous = [name for name, classes in candidates.items() if len(classes) > 1]
    unmatched = [name for name, classes in candidates.items() if not classes]
    if unmatched:
        num_matched = len(candidates) - len(unmatched)
        problem = f"{num_matched} of {len(candidates)} class folders are labels; no label for {_some(unmatched)}"
    else:
        classes = " and ".join(str(index) for index in candidates[ambiguous[0]])
        problem = (
            f"{len(ambiguous)} of {len(candidates)} class folders mean more than one class: "
            f"{_some(ambiguous)}; {ambiguous[0]!r} is the label of classes {classes}"
        )
    return ImageFolderError(
        f"{problem}; expected each folder to be one of the model's {num_classes} labels, so rename the "
        f"folders, or {_LABELS}"
    )


def _count_error(names: Sequence[str], labels: Sequence[str] | None, num_classes: int) -> ImageFolderError:
    """No folder is a label and the number of folders does not fit either."""
    synsets = _imagenet_synsets()
    known = _UNNAMED if labels is None else f"no folder is one of its {len(labels)} labels"
    unmatched = [name for name in names if name not in synsets] or names
    got = f"got {counted(len(names), 'class folder')} ({_some(unmatched)})"
    if num_classes == 1:
        return ImageFolderError(
            f"{got} for a model of one number, which has no classes to be right about; "
            "give a folder of images without folders in it"
        )
    return ImageFolderError(
        f"{got} for a model of {num_classes} classes, and {known}; expected {num_classes} folders, or folders "
        f"named like labels; {_LABELS}"
    )


def _some(names: Sequence[str]) -> str:
    return first_few(map(repr, names))
