"""The model and the images that all rows share, prepared once: what a peer decodes or resizes cannot differ."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from calibration.observers.sample_images import leave_out_copies, proportionally_ordered, split_images
from resnet_export.images.class_index import class_indices
from resnet_export.images.image_set import image_folder
from runtimes import preprocess
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import check_files, load_manifest
from runtimes.preprocessing.image_batches import image_batches
from runtimes.preprocessing.image_folder import class_of, find_images
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")


@dataclass(frozen=True, slots=True)
class Network:
    """An FP32 ONNX file and what its images need.

    Attributes:
        path: The file.
        sha256: Of its bytes, hexadecimal.
        preprocessing: How images are prepared.
        labels: Class names in index order, or None.
        num_classes: Width of the output.
        description: In words, for the table's header.
    """

    path: Path
    sha256: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    num_classes: int
    description: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """How many images lie in the work folder, in words for the header too."""

    num_calibration: int
    num_validation: int
    description: str


def network_from(path: Path, labels: Path | None, given: Preprocessing | None) -> Network:
    """Open a bundle folder, or an ONNX file with its preprocessing.

    Args:
        path: A bundle, whose manifest says how images are prepared, or a `.onnx` file.
        labels: One class name per line; None takes the bundle's.
        given: Preprocessing from the command line; wins over the manifest.

    Raises:
        BundleError: If the bundle was changed.
        ValueError: If an ONNX file comes without preprocessing.
    """
    file, preprocessing, name = path, given, f"{path.resolve().parent.name}/{path.name}"
    if path.is_dir():
        manifest = load_manifest(path)
        check_files(path, manifest)
        file, preprocessing = path / "model.onnx", given or manifest.preprocessing
        name = f"{manifest.model['id']} ({path.name})"
        labels = labels or (path / "labels.txt" if (path / "labels.txt").is_file() else None)
    if preprocessing is None:
        raise ValueError(f"{path}: no {MANIFEST_NAME} says how images are prepared; give --resize or --input-size")
    output = onnx.load(file, load_external_data=False).graph.output[0]
    num_classes = output.type.tensor_type.shape.dim[-1].dim_value
    return Network(
        path=file,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        preprocessing=preprocessing,
        labels=tuple(labels.read_text().splitlines()) if labels else None,
        num_classes=num_classes,
        description=f"{name} at {preprocessing.input_size[0]}x{preprocessing.input_size[1]}",
    )


def preprocessing_from(
    size: int | None,
    resize: int | tuple[int, int] | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> Preprocessing | None:
    """Return what the command line says of preprocessing, None where it says nothing."""
    if size is None and resize is None:
        return None
    crop = (size, size) if size else None
    return Preprocessing(resize, crop, Interpolation.BILINEAR, mean or IMAGENET_MEAN, std or IMAGENET_STD)


def prepare_folders(
    folder: Path, network: Network, calib: Path, val: Path | None, *, num_calib: int, num_val: int | None
) -> Prepared:
    """Write `calibration.npy`, and `validation.npy` with `labels.npy` where there are labelled images.

    Validation images that are byte-equal to a calibration image are left out.

    Raises:
        CalibrationError: If the folders share more than a few images.
        ImageFolderError: If a folder holds no images, or its classes do not match the model's.
    """
    shutil.copyfile(network.path, folder / "model.onnx")
    calibration = split_images(calib, find_images(calib), num_calibration=num_calib, hold_out=False).calibration
    _save_images(folder / "calibration.npy", network.preprocessing, calibration)
    words = f"{len(calibration)} calibration images"
    if val is None:
        return Prepared(len(calibration), 0, words)
    apart = leave_out_copies(calibration, find_images(val))
    validation = tuple(proportionally_ordered(val, apart.validation)[:num_val])
    _save_images(folder / "validation.npy", network.preprocessing, validation)
    if any(class_of(val, path) for path in validation):
        index = class_indices(image_folder(val), validation, network.labels, network.num_classes)
        np.save(folder / "labels.npy", np.array([index.of[path] for path in validation], np.int64))
    words += f", {len(validation)} held-out images"
    words += f" ({len(apart.copies)} copies of calibration images left out)" if apart.copies else ""
    return Prepared(len(calibration), len(validation), words)


def prepare_photographs(folder: Path, network: Network, count: int) -> Prepared:
    """Write `calibration.npy` of crops from scikit-image's photographs, the same ones in every run."""
    import skimage.data

    shutil.copyfile(network.path, folder / "model.onnx")
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in _PHOTOGRAPHS]
    generator = np.random.default_rng(0)
    crops = []
    for number in range(count):
        photo = photos[number % len(photos)]
        width, height = photo.size
        left, top = (int(generator.integers(0, side // 2)) for side in (width, height))
        crop = photo.crop((left, top, left + width // 2, top + height // 2))
        crops.append(preprocess(network.preprocessing, crop))
    np.save(folder / "calibration.npy", np.stack(crops))
    return Prepared(count, 0, f"{count} crops of photographs")


def _save_images(path: Path, preprocessing: Preprocessing, files: Sequence[Path]) -> None:
    """Write prepared images, float32 [len(files), 3, H, W], one batch in memory at a time.

    Raises:
        ImageFolderError: If any image cannot be read: labels and images would go out of step.
    """
    shape = (len(files), 3, *preprocessing.input_size)
    array: np.memmap[Any, np.dtype[np.float32]] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=shape
    )
    place = 0
    for images in _batches(preprocessing, files):
        array[place : place + len(images)] = images
        place += len(images)
    array.flush()


def _batches(preprocessing: Preprocessing, files: Sequence[Path]) -> Iterable[NDArray[np.float32]]:
    stream = image_batches(files, preprocessing, batch_size=16, max_bad_fraction=0.0)
    return (batch.images for batch in stream)
