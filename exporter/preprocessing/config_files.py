"""Configurations that stand beside a weights file: Hugging Face's `preprocessor_config.json`, timm's `config.json`.

Both are read as data; a file of another kind that happens to have such a name is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.errors import PreprocessingError, WeightsError
from exporter.preprocessing.timm_data_config import preprocessing_from_data_config
from runtimes.io.bounded_read import read_json_file
from runtimes.preprocessing.transform import Interpolation, Preprocessing

PROCESSOR = "preprocessor_config.json"
CONFIG = "config.json"

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Source: Pillow, Image.Resampling."""

_LARGE = 384
"""From this size on a ConvNextImageProcessor resizes without a crop.
Source: transformers 4.57, models/convnext/image_processing_convnext.py, ConvNextImageProcessor.resize."""


def preprocessing_beside(weights: Path) -> tuple[Preprocessing, str] | None:
    """Return the preprocessing that a configuration beside `weights` says, and its name; None where there is none.

    Raises:
        PreprocessingError: If there is one that cannot be followed.
    """
    processor = _config(weights.parent / PROCESSOR)
    if "image_mean" in processor or "do_normalize" in processor:
        return _from_processor(processor, weights.parent / PROCESSOR), f"{PROCESSOR} beside the weights"
    config = _config(weights.parent / CONFIG)
    if isinstance(config.get("pretrained_cfg"), Mapping):
        data = {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic", **config["pretrained_cfg"]}
        try:
            return preprocessing_from_data_config(data), f"{CONFIG} beside the weights (timm's)"
        except (KeyError, TypeError, WeightsError) as err:
            raise PreprocessingError(
                f"{weights.parent / CONFIG}: its pretrained_cfg cannot be followed: {err}"
            ) from err
    return None


def labels_beside(weights: Path, num_classes: int) -> tuple[str, ...] | None:
    """Return the class names of a `config.json` beside `weights`, None where it has none for so many classes."""
    config = _config(weights.parent / CONFIG)
    named = config.get("id2label")
    if isinstance(named, Mapping) and sorted(named) == sorted(map(str, range(num_classes))):
        return tuple(str(named[str(index)]) for index in range(num_classes))
    listed = config.get("label_names")
    if isinstance(listed, list) and len(listed) == num_classes:
        return tuple(map(str, listed))
    return None


def architecture_beside(weights: Path) -> str | None:
    """Return the name of timm's architecture in a `config.json` beside `weights`, or None."""
    config = _config(weights.parent / CONFIG)
    name = config.get("architecture")
    return name if isinstance(name, str) and "pretrained_cfg" in config else None


def unread_beside(weights: Path) -> str | None:
    """Return what is to be told of a `config.json` beside `weights` that is no JSON; None where there is none."""
    path = weights.parent / CONFIG
    try:
        read_json_file(path)
    except ValueError as err:
        return (
            f"{path}, beside the weights, is no JSON ({err}); class names or a preprocessing that it says are not taken"
        )
    except OSError:  # it is missing; what cannot be read is refused where it is asked for a preprocessing
        return None
    return None


def _config(path: Path) -> Mapping[str, Any]:
    """Return what a configuration says, {} where there is none; raise where there is one that cannot be read."""
    try:
        content = read_json_file(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        if isinstance(err, ValueError) and path.name == CONFIG:  # many tools have a file of that name; `unread_beside`
            return {}
        raise PreprocessingError(
            f"{path}, beside the weights, cannot be read ({getattr(err, 'strerror', None) or err}); it may say how "
            "images are prepared: copy it again, or move it away"
        ) from err
    return content if isinstance(content, dict) else {}


def _from_processor(config: Mapping[str, Any], path: Path) -> Preprocessing:
    """Return a transformers image processor's steps: resize, center crop, rescale, normalize."""
    try:
        _check_rescale(config)
        resize, crop = _sizes(config)
        mean, std = config.get("image_mean"), config.get("image_std")
        if not config.get("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        return Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=Interpolation(_RESAMPLE[config.get("resample", 2)]),
            mean=_three(mean),
            std=_three(std),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise PreprocessingError(
            f"{path}: this image processor cannot be followed ({err}); say --input-size, --resize, --mean and --std, "
            "and move the file away"
        ) from err


def _three(values: object) -> tuple[float, float, float]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"mean or std {values}, expected three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def _check_rescale(config: Mapping[str, Any]) -> None:
    factor = config.get("rescale_factor", 1 / 255)
    if not config.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise ValueError(f"rescale_factor {factor}, expected 1/255")


def _sizes(config: Mapping[str, Any]) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """Return what `Preprocessing` calls resize and crop."""
    size = config.get("size", 224)
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if kind.startswith("ConvNext") and side is not None:
        if side >= _LARGE:
            return (side, side), None
        return int(side / config.get("crop_pct", 224 / 256)), (side, side)
    if not config.get("do_resize", True):
        resize: int | tuple[int, int] | None = None
    elif side is None:
        resize = (size["height"], size["width"])
    elif isinstance(size, Mapping) or config.get("do_center_crop"):
        resize = side
    else:
        resize = (side, side)
    if not config.get("do_center_crop", False):
        return resize, None
    crop = config["crop_size"]
    return resize, (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
