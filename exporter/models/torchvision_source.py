"""torchvision's classification models, with torchvision's weights, a checkpoint file, or random weights."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from exporter.checkpoints.checkpoint import check_finite, state_dict_sha256
from exporter.checkpoints.weight_layout import layout_of
from exporter.checkpoints.weight_names import fit_names
from exporter.errors import UnknownModelError, WeightsError
from exporter.models.architecture import (
    CIFAR_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Architecture,
    load_file,
    load_random,
)
from exporter.models.loaded_model import DEFAULT_WEIGHTS, RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from runtimes.preprocessing.transform import Interpolation, Preprocessing

_AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads that only training uses."""

_RESNETS = ("resnet", "resnext", "wide_resnet")

_TRANSFORM_INPUT_STATISTICS = (0.5, 0.5, 0.5)
"""torchvision's GoogLeNet and Inception v3 weights were trained on (x - 0.5) / 0.5, which their `transform_input` makes
of ImageNet's normalization inside the network. Here the preprocessing does it, so the network holds no such step.
Source: torchvision 0.29, models/googlenet.py, GoogLeNet._transform_input."""


def load(request: ModelRequest) -> LoadedModel:
    """Build a torchvision model and load its weights; see `exporter.models.load_model.load_model`."""
    architecture = architecture_for(request)
    name = architecture.model_id
    if request.weights == RANDOM_WEIGHTS:
        return load_random(architecture, request)
    if not is_weights_file(request.weights):
        return _load_enum(architecture, request)
    member = _told_by_file_name(name, request.weights)
    if member is None:
        return load_file(_of_unknown_training(architecture), request)
    return _with_recipe(load_file(architecture, request), member, name)


def preprocessing_of(member: Any, name: str) -> Preprocessing:
    """Return how images are prepared for the weights `member` of model `name` as it is built here."""
    preprocessing = preprocessing_from_transforms(member.transforms())
    if name in _AUXILIARY_HEADS:
        return replace(preprocessing, mean=_TRANSFORM_INPUT_STATISTICS, std=_TRANSFORM_INPUT_STATISTICS)
    return preprocessing


def preprocessing_from_transforms(transforms: Any) -> Preprocessing:
    """Return the specification of torchvision's `ImageClassification` preset."""
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        resize=resize,
        crop=(crop, crop),
        interpolation=Interpolation(transforms.interpolation.value),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        return
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    raise UnknownModelError(f"torchvision {torchvision.__version__} has no classification model {name!r}; {hint}")


def architecture_for(request: ModelRequest) -> Architecture:
    """Return the architecture with the preprocessing of its first published weights, which is then an assumption.

    Raises:
        UnknownModelError: If torchvision has no such classification model.
    """
    name = request.reference.name
    _check_name(name)
    member = next(iter(torchvision.models.get_model_weights(name)), None)
    preprocessing = IMAGENET_PREPROCESSING if member is None else preprocessing_of(member, name)
    recipe = "ImageNet's" if member is None else f"torchvision's, {member}"
    sized = request.preprocessing.applied_to(preprocessing)
    return Architecture(
        model_id=name,
        source="torchvision",
        build=partial(_build, name, sized.input_size),
        num_classes=1000,
        preprocessing=preprocessing,
        preprocessing_source=f"assumed: {recipe} (the weights do not say)",
        ignored_prefixes=_AUXILIARY_HEADS.get(name, ()),
        adapt=_adapted_stem if name.startswith(_RESNETS) else None,
    )


def _build(name: str, input_size: tuple[int, int], num_classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _AUXILIARY_HEADS:
        options = {"aux_logits": False, "transform_input": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": input_size[0]}  # its position embedding has one size
    elif name.startswith("maxvit_"):
        options = {"input_size": input_size}
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module


def _adapted_stem(architecture: Architecture, state_dict: Mapping[str, Tensor]) -> Architecture:
    """Return the architecture with a stem for small images, if that is what the weights have."""
    weight = state_dict.get("conv1.weight")
    if weight is None or tuple(weight.shape[2:]) != (3, 3):
        return architecture
    build = architecture.build
    return replace(
        architecture,
        build=lambda num_classes: _with_small_stem(build(num_classes)),
        preprocessing=CIFAR_PREPROCESSING,
        preprocessing_source="assumed: CIFAR-10's (the weights do not say)",
        notes=("conv1 is 3x3 in the file: assumed is the stem for small images, stride 1 and no max pool",),
    )


def _with_small_stem(module: Any) -> nn.Module:
    """Put the stem of the CIFAR repositories into a torchvision ResNet.

    Source: kuangliu/pytorch-cifar, models/resnet.py: 3x3, stride 1, padding 1, no max pool.
    """
    module.conv1 = nn.Conv2d(3, module.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
    module.maxpool = nn.Identity()
    result: nn.Module = module
    return result


def _told_by_file_name(name: str, weights: str) -> Any:
    """Return the weights whose download the file is by its name, or None.

    `resnet50-11ad3fa6.pth` is the V2 recipe, which resizes to 232, not 256; eight digits of the file's hash are in it.
    """
    members = torchvision.models.get_model_weights(name)
    return next((member for member in members if member.url.rpartition("/")[2] == Path(weights).name), None)


def _of_unknown_training(architecture: Architecture) -> Architecture:
    """Return the architecture for a file of unknown origin: of some, two kinds of training are about as likely."""
    name = architecture.model_id
    if name not in _AUXILIARY_HEADS:
        return architecture
    return replace(
        architecture,
        undecided=(
            f"a checkpoint of {name} does not say whether it was trained with transform_input: fine-tuned from "
            "torchvision's weights it was, and its network saw --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5; trained from "
            "scratch it saw the mean and std of its data loader"
        ),
    )


def _with_recipe(loaded: LoadedModel, member: Any, name: str) -> LoadedModel:
    """Take preprocessing and labels from torchvision's weights, unless the file has other classes."""
    if len(member.meta["categories"]) != loaded.num_classes:
        return loaded
    return replace(
        loaded,
        preprocessing=preprocessing_of(member, name),
        preprocessing_source=f"{member}.transforms(), by the file's name",
        labels=loaded.labels or tuple(member.meta["categories"]),
    )


def _load_enum(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    name = architecture.model_id
    weights = _weights_member(name, request.weights)
    labels = tuple(weights.meta["categories"])
    if request.num_classes not in (None, len(labels)):
        raise WeightsError(
            f"{weights} has {len(labels)} classes, --num-classes asks for {request.num_classes}; give your own "
            "weights with --weights FILE, or --weights random"
        )
    preprocessing = preprocessing_of(weights, name)
    trained_size = preprocessing.input_size  # a transformer's position embedding fits this one
    architecture = replace(architecture, build=partial(_build, name, trained_size))
    module = architecture.to_be_filled(len(labels))
    layout = layout_of(architecture.build)
    state_dict, notes = fit_names(_download(weights), layout.shapes, ignored_prefixes=architecture.ignored_prefixes)
    module.load_state_dict(state_dict)
    check_finite(module)
    return LoadedModel(
        module=module,
        model_id=name,
        source=architecture.source,
        weights=str(weights),
        weights_sha256=state_dict_sha256(module.state_dict()),
        preprocessing=preprocessing,
        preprocessing_source=f"{weights}.transforms()",
        num_classes=len(labels),
        labels=labels,
        notes=tuple(notes),
    )


def _weights_member(name: str, weights: str) -> Any:
    members = torchvision.models.get_model_weights(name)
    enum, _, member = weights.rpartition(".")
    if enum not in ("", members.__name__) or member not in (DEFAULT_WEIGHTS, *members.__members__):
        published = ", ".join(members.__members__) or "none"
        raise WeightsError(
            f"{name} has no weights {weights!r}; torchvision has {published}; "
            "or give a file (.pth, .pt, .safetensors), DEFAULT or random"
        )
    return members[member]


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
