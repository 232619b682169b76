"""`--calib` and `--val` from wherever pictures are kept, as one folder of class folders for the run.

    folders, globs           linked together
    .txt, .csv, .tsv         a list of paths, with or without labels (`list_file`)
    .tar, .tar.gz            an archive of pictures or a WebDataset shard (`archive`)
    .npy, .npz               arrays of pixels, with or without labels (`arrays`)
    .parquet, .arrow, or a folder that Hugging Face's `save_to_disk` wrote (`dataset`)

One plain folder stays what it is. Everything else is put into a temporary folder, by links where there are files. A
picture whose class is known by index lies in `index=N`, as `runtimes.preprocessing.class_folders` reads it.
"""

from __future__ import annotations

import errno
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exporter.errors import OptionError
from resnet_export.images.archive import ARCHIVES, archive_pictures
from resnet_export.images.arrays import ARRAYS, array_pictures
from resnet_export.images.dataset import TABLES, dataset_pictures, is_dataset
from resnet_export.images.image_set import LABELS_OF_NOTHING, ImageSource
from resnet_export.images.list_file import LISTS, labels_of_list, list_pictures
from resnet_export.images.picture import Picture
from resnet_export.images.temporary_folder import TemporaryFolder
from runtimes.errors import ImageFolderError
from runtimes.first_few import first_few
from runtimes.preprocessing.class_folders import INDEX_PREFIX
from runtimes.preprocessing.image_folder import IMAGE_EXTENSIONS, class_of, count_other, files_passed_over, find_images

_MAX_STEM_BYTES = 120
"""Of the 255 that a file name may have."""

_KINDS = "a folder, a glob, a list (.txt, .csv), .tar, .npy, .npz, .parquet, or a saved dataset"

_READ = (*IMAGE_EXTENSIONS, *LISTS, *ARCHIVES, *ARRAYS, *TABLES)
"""What the names of files end in that are read; of a glob's matches, others are left out, as in a folder."""


@contextmanager
def gathered(
    words: Sequence[str], labels: Path | None = None, *, left_out: Counter[str] | None = None
) -> Iterator[Path]:
    """Give a folder with every picture that the words mean, for as long as the context lasts.

    Args:
        words: Paths and globs, at least one; pictures stay in their order within a word.
        labels: A list of file name and label, for folders without class folders (ImageNet's own layout).
        left_out: Gets the number of files that are no pictures by their names, by extension; not of one plain folder,
            which stays what it is.

    Raises:
        ImageFolderError: If a word means nothing, or what it means cannot be read.
    """
    others: Counter[str] = Counter() if left_out is None else left_out
    paths = [path for word in words for path in _expanded(word, others)]
    if len(paths) == 1 and labels is None and paths[0].is_dir() and not is_dataset(paths[0]):
        yield paths[0]
        return
    with TemporaryFolder() as temporary:
        root = temporary.below("images")
        _put_all(root, paths, labels, others)
        yield root


def _expanded(word: str, left_out: Counter[str]) -> list[Path]:
    """Return what a word means: itself, or the sorted matches of a glob."""
    if os.path.exists(word) or not glob.has_magic(word):
        return [Path(word)]
    found = sorted(glob.glob(word, recursive=True))
    if not found:
        raise ImageFolderError(f"{word}: no file or folder matches this pattern; check the path")
    read = []
    for path in found:
        if os.path.isdir(path) or path.lower().endswith(_READ):
            read.append(Path(path))
        else:
            count_other(path, left_out)
    if not read:
        raise ImageFolderError(f"{word}: got {len(found)} files, none of which is read; expected {_KINDS}")
    return read


def gathered_into(root: Path, path: Path) -> ImageSource:
    """Put the pictures of one source that is no folder of pictures below `root`, an empty folder, and return them.

    Raises:
        ImageFolderError: As `gathered`.
    """
    left_out: Counter[str] = Counter()
    _put_all(root, _expanded(str(path), left_out), None, left_out)
    return ImageSource(root, str(path), is_temporary=True, left_out=left_out)


def is_folder_of_pictures(path: Path) -> bool:
    """Tell whether a path is what `find_images` reads, or nothing that another reader here knows."""
    return (path.is_dir() and not is_dataset(path)) or not (path.exists() or glob.has_magic(str(path)))


def _put_all(root: Path, paths: Sequence[Path], labels: Path | None, left_out: Counter[str]) -> None:
    known = None if labels is None else labels_of_list(labels)
    number = unlabeled = 0
    for path in paths:
        for picture in _pictures(path, left_out):
            label = picture.label
            if known is not None:
                label = known.get(picture.name, known.get(Path(picture.name).stem))
                unlabeled += label is None
            with _full_disk_told(path, root, number):
                _put(root, number, picture, label)
            number += 1
    if not number:
        raise ImageFolderError(f"no images in {', '.join(map(str, paths))}; expected {_KINDS}")
    if unlabeled:
        raise ImageFolderError(
            f"{labels}: {unlabeled} of {number} images have no label in it; expected one line per image, file name and "
            "class (index, label or synset id)"
        )


def _pictures(path: Path, left_out: Counter[str]) -> Iterator[Picture]:
    name = path.name.lower()
    if path.is_dir():
        return dataset_pictures(path) if is_dataset(path) else _folder_pictures(path, left_out)
    if path.exists() and not path.is_file():
        raise ImageFolderError(f"{path} is a pipe or a device; write what it gives to a file, and give {_KINDS}")
    if not path.is_file():
        raise ImageFolderError(f"{path}: there is no such file or folder; expected {_KINDS}")
    if name.endswith(LISTS):
        return list_pictures(path)
    if name.endswith(ARCHIVES):
        return archive_pictures(path, left_out)
    if name.endswith(ARRAYS):
        return array_pictures(path)
    if name.endswith(TABLES):
        return dataset_pictures(path)
    if not name.endswith(IMAGE_EXTENSIONS):
        raise ImageFolderError(f"{path}: it is no picture by its name; expected {_KINDS}, or a picture")
    return iter([Picture(path.name, None, file=path)])


def _folder_pictures(folder: Path, left_out: Counter[str]) -> Iterator[Picture]:
    left_out.update(files_passed_over(folder))
    for path in find_images(folder):
        yield Picture(path.name, class_of(folder, path), file=path)


@contextmanager
def _full_disk_told(path: Path, root: Path, num_kept: int) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ImageFolderError(
            f"{path}: {num_kept} pictures were kept in the temporary folder {root.parent}, then: {err.strerror}; set "
            "TMPDIR to a folder with more room, or unpack them to a folder, which is read where it is"
        ) from err


def _put(root: Path, number: int, picture: Picture, label: str | None) -> None:
    """Link or write a picture into its class folder, under a name that no other one has."""
    folder = root if label is None else root / _folder_name(label)
    folder.mkdir(exist_ok=True)
    suffix = Path(picture.name).suffix.lower() or ".img"
    target = folder / f"{number:08d}-{_plain_stem(picture.name)}{suffix}"
    if picture.file is not None:
        target.symlink_to(picture.file.resolve())
    else:
        target.write_bytes(picture.content or b"")


def _plain_stem(name: str) -> str:
    """Return a name's last part without suffix, short enough for a file name: reports call the picture so."""
    stem = Path(name.replace("\0", "_")).stem.encode("utf-8", "surrogateescape")[:_MAX_STEM_BYTES]
    return stem.decode("utf-8", "ignore")


def _folder_name(label: str) -> str:
    """Return a folder's name for a label; whole numbers are class indices."""
    if label.isdecimal():
        return f"{INDEX_PREFIX}{int(label)}"
    plain = label.replace("/", "_").replace("\0", "_").strip()
    return plain if plain.strip(".") else f"_{plain}"


@contextmanager
def gathered_source(words: Sequence[str], labels: Path | None = None) -> Iterator[ImageSource]:
    """Give what `gathered` gives as the source of a job's images, called as the user called it."""
    left_out: Counter[str] = Counter()
    with gathered(words, labels, left_out=left_out) as root:
        yield ImageSource(root, first_few(words, 1), is_temporary=str(root) != words[0], left_out=left_out)


def gathered_val(words: Sequence[str] | None, labels: Path | None, stack: ExitStack) -> ImageSource | None:
    """Return what `--val` and `--val-labels` say, gathered until `stack` is left; None without `--val`.

    Raises:
        OptionError: If there are labels of no images.
        ImageFolderError: As `gathered`.
    """
    if words is None and labels is not None:
        raise OptionError(LABELS_OF_NOTHING)
    return None if words is None else stack.enter_context(gathered_source(words, labels))
