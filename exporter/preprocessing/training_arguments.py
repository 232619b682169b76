"""The evaluation transform of a training script, from the arguments that it stored in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.checkpoints.training_record import TORCHVISION, TrainingRecord
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing


def preprocessing_of_reference(record: TrainingRecord) -> tuple[Preprocessing, str] | None:
    """Return how torchvision's references prepared validation images, and where that is from; None for other scripts.

    Source: torchvision 0.29, references/classification/presets.py, ClassificationPresetEval: resize, center crop,
        ImageNet's mean and std.
    """
    if record.script != TORCHVISION:
        return None
    resize, crop = (_side(record.arguments, name) for name in ("val_resize_size", "val_crop_size"))
    if resize is None or crop is None:
        return None
    try:
        interpolation = Interpolation(record.arguments.get("interpolation", "bilinear"))
    except ValueError:
        return None
    preprocessing = Preprocessing(resize, (crop, crop), interpolation, IMAGENET_MEAN, IMAGENET_STD)
    return preprocessing, "the checkpoint's training arguments (torchvision's reference script)"


def _side(arguments: Mapping[str, object], name: str) -> int | None:
    value = arguments.get(name)
    return value if isinstance(value, int) and 0 < value < 1 << 13 else None
