"""Pictures as arrays: `.npy` with images, `.npz` with images and labels, uint8 pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_export.images.picture import Picture
from runtimes.errors import ImageFolderError
from runtimes.io.stand_in import stand_in_at

ARRAYS = (".npy", ".npz")
_IMAGE_KEYS = ("images", "image", "x", "x_test", "x_val", "x_train", "data", "arr_0")
_LABEL_KEYS = ("labels", "label", "y", "y_test", "y_val", "y_train", "targets", "arr_1")


def array_pictures(path: Path) -> Iterator[Picture]:
    """Yield the pictures of an array [N, H, W, C], [N, C, H, W] or [N, H, W]; one picture [H, W, C] is taken as it is.

    Raises:
        ImageFolderError: If it cannot be read, is no array of pixels, or has another number of labels.
    """
    images, labels = _read(path)
    if images.ndim == 3 and images.shape[2] <= 4 and labels is None:
        images = images[np.newaxis]
    if images.dtype not in (np.uint8, np.uint16) or images.ndim not in (3, 4) or not images.size:
        raise ImageFolderError(
            f"{path}: got an array {images.dtype} {list(images.shape)}, expected pixels uint8 [N, H, W, C], "
            "[N, C, H, W] or [N, H, W]; of numbers that are normalized already the pixels are not known"
        )
    if labels is not None and labels.shape != (len(images),):
        raise ImageFolderError(f"{path}: got labels {list(labels.shape)} for {len(images)} images, expected one each")
    for number, image in enumerate(images):
        label = None if labels is None else str(labels[number])
        yield Picture(f"{path.stem}.npy", label, content=_bytes(image))


def _bytes(image: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(image), allow_pickle=False)
    return buffer.getvalue()


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            keys = {key.lower(): key for key in loaded.files}
            image = next((keys[key] for key in _IMAGE_KEYS if key in keys), None)
            label = next((keys[key] for key in _LABEL_KEYS if key in keys), None)
            if image is None:
                raise ImageFolderError(
                    f"{path}: holds {', '.join(loaded.files)}, expected images under one of {', '.join(_IMAGE_KEYS)}"
                )
            return loaded[image], None if label is None else loaded[label]
    except (OSError, ValueError, EOFError) as err:
        raise ImageFolderError(f"{path}: is no whole array file ({stand_in_at(path) or err}); copy it again") from err
