"""torchvision's ResNets, with torchvision's weights, a checkpoint file, or random weights."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from torch import nn

from exporter.architecture import Architecture, load_file, load_random
from exporter.checkpoint import check_finite, state_dict_sha256
from exporter.errors import WeightsError
from exporter.loaded_model import DEFAULT_WEIGHTS, RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from runtimes.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

IMAGENET_PREPROCESSING = Preprocessing(
    resize=256, crop=(224, 224), interpolation=Interpolation.BILINEAR, mean=IMAGENET_MEAN, std=IMAGENET_STD
)
"""Source: torchvision's V1 weights of every ResNet, `weights.transforms()`."""


def load(request: ModelRequest) -> LoadedModel:
    """Build a torchvision ResNet and load its weights; see `exporter.load_model.load_model`."""
    architecture = Architecture(
        model_id=request.name,
        source="torchvision",
        build=partial(_build, request.name),
        num_classes=1000,
        preprocessing=IMAGENET_PREPROCESSING,
        preprocessing_source="assumed: torchvision's V1 recipe (the weights do not say)",
    )
    if request.weights == RANDOM_WEIGHTS:
        return load_random(architecture, request)
    if is_weights_file(request.weights):
        return _told_by_file_name(load_file(architecture, request), request)
    return _load_enum(architecture, request)


def _told_by_file_name(loaded: LoadedModel, request: ModelRequest) -> LoadedModel:
    """Take preprocessing and labels from torchvision where the file has the name of one of its downloads.

    `resnet50-11ad3fa6.pth` is the V2 recipe, which resizes to 232 and not to 256; eight digits of the file's hash are
    in the name.
    """
    file = Path(request.weights).name
    members = torchvision.models.get_model_weights(request.name)
    member = next((member for member in members if member.url.rpartition("/")[2] == file), None)
    if member is None or len(member.meta["categories"]) != loaded.num_classes:
        return loaded
    return replace(
        loaded,
        preprocessing=preprocessing_from_transforms(member.transforms()),
        preprocessing_source=f"{member}.transforms(), by the file's name",
        labels=loaded.labels or tuple(member.meta["categories"]),
    )


def preprocessing_from_transforms(transforms: Any) -> Preprocessing:
    """Return the specification of torchvision's `ImageClassification` preset.

    Args:
        transforms: What `weights.transforms()` returns.
    """
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        resize=resize,
        crop=(crop, crop),
        interpolation=Interpolation(transforms.interpolation.value),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _build(name: str, num_classes: int) -> nn.Module:
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    return module


def _load_enum(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    weights = _weights_member(request)
    labels = tuple(weights.meta["categories"])
    if request.num_classes not in (None, len(labels)):
        raise WeightsError(
            f"{weights} has {len(labels)} classes, --num-classes asks for {request.num_classes}; give your own "
            "weights with --weights FILE, or --weights random"
        )
    module = architecture.seeded(len(labels))
    module.load_state_dict(_download(weights))
    check_finite(module)
    return LoadedModel(
        module=module,
        model_id=request.name,
        source=architecture.source,
        weights=str(weights),
        weights_sha256=state_dict_sha256(module.state_dict()),
        preprocessing=preprocessing_from_transforms(weights.transforms()),
        preprocessing_source=f"{weights}.transforms()",
        num_classes=len(labels),
        labels=labels,
    )


def _weights_member(request: ModelRequest) -> Any:
    members = torchvision.models.get_model_weights(request.name)
    enum, _, name = request.weights.rpartition(".")
    if enum not in ("", members.__name__) or name not in (DEFAULT_WEIGHTS, *members.__members__):
        raise WeightsError(
            f"{request.name} has no weights {request.weights!r}; torchvision has "
            f"{', '.join(members.__members__)}; or give a file (.pth, .pt, .safetensors), DEFAULT or random"
        )
    return members[name]


def _download(weights: Any) -> dict[str, torch.Tensor]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub prints "Downloading"; standard output is the report's
            state_dict: dict[str, torch.Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError, EOFError, HTTPException, UnpicklingError) as err:
        # No network is a URLError, an OSError; a broken download an HTTPException; a wrong hash a RuntimeError; a
        # damaged file in the cache a RuntimeError, an EOFError or an UnpicklingError.
        raise WeightsError(
            f"{weights} is not whole in {torch.hub.get_dir()}/checkpoints and cannot be downloaded ({err}); "
            f"fetch {weights.url} on a machine with network and pass --weights FILE, "
            "or use --weights random to try the pipeline"
        ) from err
    return state_dict
