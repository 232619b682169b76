"""timm's data config (`pretrained_cfg`, `resolve_data_config`) as a `Preprocessing`. Imports no timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.errors import WeightsError
from runtimes.preprocessing.resize import KeepRatio, Resize
from runtimes.preprocessing.transform import Interpolation, Preprocessing


def preprocessing_from_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Return timm's evaluation transform of a data config as a `Preprocessing`.

    Args:
        config: What `timm.data.resolve_model_data_config` returns: input_size (channels, height, width),
            interpolation, mean, std, crop_pct, crop_mode.

    Raises:
        WeightsError: If the model takes other than three channels, or the config holds what is not known here.
    Source: timm 1.0.31, data/transforms_factory.py, transforms_imagenet_eval.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise WeightsError(f"timm's data config asks for {channels} channels, expected 3 (RGB)")
    scaled = int(height / config["crop_pct"]), int(width / config["crop_pct"])  # positive: int() is floor()
    mode = config["crop_mode"] or "center"
    if mode not in ("center", "squash", "border"):
        raise WeightsError(f"timm's data config has crop_mode {mode!r}, expected center, squash or border")
    resize: Resize = scaled  # torchvision's Resize takes (height, width) as it is, whatever the picture's ratio
    if mode == "border":
        resize = KeepRatio(*scaled, inside=True)
    elif mode == "center":
        resize = scaled[0] if scaled[0] == scaled[1] else KeepRatio(*scaled, inside=False)
    try:
        mean, std = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
        red, green, blue = (round(255 * value) for value in mean)
        return Preprocessing(
            resize=resize,
            crop=(height, width),
            interpolation=Interpolation(config["interpolation"]),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            fill=(red, green, blue) if mode == "border" else (0, 0, 0),
        )
    except (ValueError, IndexError) as err:
        raise WeightsError(f"timm's data config cannot be followed: {err}") from err
