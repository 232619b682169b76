"""Facts that a training script wrote beside the weights: names and numbers, no objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TIMM = "timm"
TORCHVISION = "torchvision"

_ARGUMENTS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt")
_ARCHITECTURE = ("arch", "architecture", "model_name", "model", "backbone", "encoder_name")


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """Facts about the training.

    Attributes:
        architecture: The network's name as the script knew it, or None.
        arguments: The script's options, as far as they are numbers, strings or rows of these.
        script: `TIMM` or `TORCHVISION` where the file has the layout of that training script, else None.
    """

    architecture: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    script: str | None = None


def training_record(payload: object) -> TrainingRecord:
    """Return what `payload`, as read from a checkpoint file, says about its training.

    Source: timm 1.0.31, utils/checkpoint_saver.py, CheckpointSaver._save (`arch`, `version`, `args`); torchvision's
        references/classification/train.py (`model`, `lr_scheduler`, `args` with `val_crop_size`).
    """
    if not isinstance(payload, Mapping):
        return TrainingRecord()
    arguments: dict[str, object] = {}
    for key in _ARGUMENTS:
        if isinstance(payload.get(key), Mapping):
            arguments |= {str(name): value for name, value in payload[key].items() if _is_plain(value)}
    stated = [payload.get(key) for key in _ARCHITECTURE[:3]] + [arguments.get(key) for key in _ARCHITECTURE]
    architecture = next((name for name in stated if isinstance(name, str) and name), None)
    script = None
    if "arch" in payload and isinstance(payload.get("version"), int) and "state_dict" in payload:
        script = TIMM
    elif "val_crop_size" in arguments and "model" in arguments:
        script = TORCHVISION
    return TrainingRecord(architecture, arguments, script)


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (str, int, float)) for item in value)
    return value is None or isinstance(value, (str, int, float))
