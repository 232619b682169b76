"""A Hugging Face dataset on disk: a folder that `save_to_disk` wrote, or single `.arrow` and `.parquet` files.

Read with pyarrow; the package `datasets` is not needed, and nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_export.images.picture import Picture
from runtimes.errors import ImageFolderError
from runtimes.needed_library import needed_library

TABLES = (".parquet", ".arrow")
_SPLITS = ("validation", "val", "test", "train")
_IMAGES = ("image", "img", "jpg", "png", "pixel_values")
_LABELS = ("label", "labels", "cls", "fine_label", "target")


def is_dataset(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote this folder, one split or several."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def dataset_pictures(path: Path) -> Iterator[Picture]:
    """Yield the pictures and labels (class indices) of a dataset.

    Raises:
        ImageFolderError: If it has several splits, no column of images, or cannot be read.
        MissingDependencyError: If pyarrow is not installed.
    """
    for file in _files(path):
        for batch in _batches(file):
            yield from _rows(file, batch)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in path.iterdir() if (entry / "state.json").is_file())
        if len(splits) != 1:
            usual = next((split for split in _SPLITS if split in splits), splits[0] if splits else "SPLIT")
            raise ImageFolderError(f"{path}: holds the splits {', '.join(splits)}; name one, such as {path / usual}")
        path = path / splits[0]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ImageFolderError(f"{path}: its state.json cannot be read ({err}); save the dataset again") from err
    if odd := [name for name in names if Path(name).name != name]:
        raise ImageFolderError(f"{path}: its state.json names a file outside of it, {odd[0]!r}")
    return [path / name for name in names]


def _batches(file: Path) -> Iterator[Any]:
    told = f'{file} needs pyarrow; pip install "resnet-export[classify]"'
    arrow, parquet = needed_library("pyarrow", told), needed_library("pyarrow.parquet", told)
    try:
        if file.name.lower().endswith(".parquet"):
            yield from parquet.ParquetFile(file).iter_batches(256)
            return
        with arrow.memory_map(str(file)) as source:
            yield from arrow.ipc.open_stream(source)
    except (OSError, arrow.ArrowException) as err:
        raise ImageFolderError(f"{file}: is no whole Arrow or Parquet file ({err}); copy it again") from err


def _rows(file: Path, batch: Any) -> Iterator[Picture]:
    columns = list(batch.schema.names)
    images = next((name for name in _IMAGES if name in columns), None)
    labels = next((name for name in _LABELS if name in columns), None)
    if images is None:
        raise ImageFolderError(f"{file}: has the columns {', '.join(columns)}, expected one of {', '.join(_IMAGES)}")
    for row in batch.select([name for name in (images, labels) if name is not None]).to_pylist():
        entry, label = row[images], None if labels is None else row[labels]
        word = None if label is None else str(label)
        content = entry.get("bytes") if isinstance(entry, dict) else entry
        if isinstance(content, bytes):
            yield Picture("image.png", word, content=content)
        elif isinstance(entry, dict) and entry.get("path"):
            yield Picture(Path(entry["path"]).name, word, file=Path(entry["path"]))
        else:
            raise ImageFolderError(
                f"{file}: column {images!r} holds {type(entry).__name__}, expected image files' bytes"
            )
