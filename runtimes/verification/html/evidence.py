"""Evidence on the page beside verify's own report: ranges and histograms, latency, the images of answers that differ.

All of it is optional: a file without a bundle has none, and an image may be gone. What is missing is said on the page.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.bundle.file_names import CALIBRATION_NAME, GOLDEN_NAME, MANIFEST_NAME, REPORT_NAME
from runtimes.bundle.manifest import load_manifest
from runtimes.errors import BundleError, RuntimeAdapterError
from runtimes.io.npz import load_npz
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.restore_pixels import pixels_of

THUMBNAIL_PIXELS = 160
"""Longer side of a thumbnail, shown at half of it: sharp on a screen of twice the density, about 5 kB."""

SMALL_PIXELS = 64
"""Images up to this side are kept as they are, without the artifacts of JPEG."""

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TensorRange:
    """One quantized tensor.

    Attributes:
        name: Of the tensor.
        amax: The largest |x| that is kept, in tensor units.
        max_abs: The largest |x| seen.
        bin_width: Of the histogram of |x|; 0 where calibration.json has none.
        counts: Sampled values per bin, from 0 upwards.
        curve: amax after each of `Evidence.num_images`.
    """

    name: str
    amax: float
    max_abs: float
    bin_width: float
    counts: tuple[int, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BundleEvidence:
    """Evidence that a bundle holds for the page.

    Attributes:
        tensors: The quantized tensors, in graph order; () without calibration.json.
        num_images: After how many images `TensorRange.curve` was noted.
        method: How ranges were chosen, in a word; "" where nobody says.
        rows: `rows` of the bundle's report.json: size and latency of each file as the export measured them.
        machine: Where that was.
        golden: Pixels of the golden inputs, uint8 [n, H, W, 3], or None.
        kept_float: What `--keep-float` gained and cost, a sentence; "" where nothing was kept.
    """

    tensors: tuple[TensorRange, ...] = ()
    num_images: tuple[int, ...] = ()
    method: str = ""
    rows: Sequence[Report] = field(default_factory=tuple)
    machine: str = ""
    golden: NDArray[np.uint8] | None = None
    kept_float: str = ""


def bundle_evidence(subject: Path) -> BundleEvidence:
    """Return what the bundle of a subject holds; nothing where it is in none.

    Raises:
        BundleError: If calibration.json or report.json cannot be read.
    """
    folder = subject if subject.is_dir() else subject.parent
    if not (folder / MANIFEST_NAME).is_file():
        return BundleEvidence()
    calibration, exported = _read(folder / CALIBRATION_NAME), _read(folder / REPORT_NAME)
    try:
        tensors, num_images = _tensors(calibration)
        method = str(calibration.get("method", {}).get("name", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BundleError(
            f"{folder / 'calibration.json'}: a key is missing or of a wrong type ({err!r}); export the bundle anew"
        ) from err
    rows = [row for row in exported.get("rows", ()) if row.get("file") is not None]
    kept = exported.get("keep_float")
    statement = str(kept.get("statement", "")) if isinstance(kept, Mapping) else ""
    machine = str(exported.get("machine", ""))
    return BundleEvidence(tensors, num_images, method, rows, machine, _golden(folder), statement)


def _read(path: Path) -> Report:
    if not path.is_file():
        return {}
    try:
        content: Report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BundleError(f"{path}: cannot be read ({err}); export the bundle anew") from err
    return content if isinstance(content, Mapping) else {}


def _tensors(calibration: Report) -> tuple[tuple[TensorRange, ...], tuple[int, ...]]:
    observed = calibration.get("observed") or {}
    convergence = observed.get("convergence") or {}
    curves = convergence.get("amax", {})
    found = []
    for name, kept in calibration.get("tensors", {}).items():
        histogram = observed.get("activations", {}).get(name, {}).get("histogram") or {}
        found.append(
            TensorRange(
                name,
                float(kept["amax"]),
                float(kept["max_abs"]),
                float(histogram.get("bin_width", 0.0)),
                tuple(int(count) for count in histogram.get("counts", "").split()),
                tuple(float(value) for value in curves.get(name, ())),
            )
        )
    return tuple(found), tuple(int(count) for count in convergence.get("num_images", ()))


def _golden(folder: Path) -> NDArray[np.uint8] | None:
    try:
        inputs = load_npz(folder / GOLDEN_NAME)["input"]
        if inputs.dtype == np.uint8:
            return inputs if inputs.ndim == 4 else None
        return pixels_of(load_manifest(folder).preprocessing, inputs)
    except (OSError, ValueError, KeyError, RuntimeAdapterError):  # verify's checks tell what is wrong with them
        return None


def thumbnail(image: str, root: Path | None, golden: NDArray[np.uint8] | None) -> str | None:
    """Return an image as a data URI.

    Args:
        image: A path below `root`, or "golden[3]".
        root: The folder of the validation images, or None.
        golden: Pixels of the golden inputs, uint8 [n, H, W, 3].

    Returns:
        The URI, or None where there is no such image any more or it lies outside `root`.
    """
    if image.startswith("golden[") and image.endswith("]"):
        number = image[len("golden[") : -1]
        if golden is None or not number.isdigit() or int(number) >= len(golden):
            return None
        return _data_uri(Image.fromarray(golden[int(number)]))
    if root is None or not Path(os.path.normpath(root / image)).is_relative_to(os.path.normpath(root)):
        return None  # by name: images gathered from several places are links below `root`
    try:
        return _data_uri(read_image(root / image))
    except RuntimeAdapterError:
        return None


def _data_uri(picture: Image.Image) -> str:
    small = max(picture.size) <= SMALL_PIXELS
    if not small:
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    content = io.BytesIO()
    picture.convert("RGB").save(content, "PNG" if small else "JPEG", **({} if small else {"quality": 82}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content.getvalue()).decode()}"
