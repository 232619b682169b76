"""Our own networks, from a checkpoint file or random; nobody publishes default weights for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import nn

from exporter.architecture import (
    CIFAR_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Architecture,
    load_file,
    load_random,
)
from exporter.cifar_resnet import CifarResNet, ShortcutOption
from exporter.errors import WeightsError
from exporter.loaded_model import RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from exporter.plain_network import PlainNetwork
from exporter.preact_resnet import CifarPreActResNet, PreActResNet

_IMAGENET_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "preact_resnet18": partial(PreActResNet, 18),
    "preact_resnet50": partial(PreActResNet, 50),
    "plain18": partial(PlainNetwork, 18),
    "plain34": partial(PlainNetwork, 34),
}


def load(request: ModelRequest) -> LoadedModel:
    """Build one of our networks and load its weights; see `exporter.load_model.load_model`."""
    architecture = architecture_for(request)
    if request.weights == RANDOM_WEIGHTS:
        return load_random(architecture, request)
    if is_weights_file(request.weights):
        return load_file(architecture, request)
    raise WeightsError(
        f"{architecture.model_id} has no published weights {request.weights!r}; give a file (.pth, .pt, .safetensors) "
        "or --weights random"
    )


def architecture_for(request: ModelRequest) -> Architecture:
    """Return the architecture of one of our networks."""
    name = request.reference.name
    is_imagenet = name in _IMAGENET_NETWORKS
    return Architecture(
        model_id=name,
        source="resnet-export",
        build=_IMAGENET_NETWORKS[name] if is_imagenet else _cifar_builder(name),
        num_classes=1000 if is_imagenet else 10,
        preprocessing=IMAGENET_PREPROCESSING if is_imagenet else CIFAR_PREPROCESSING,
        preprocessing_source=f"assumed: {'ImageNet' if is_imagenet else 'CIFAR-10'}'s (the weights do not say)",
    )


def _cifar_builder(name: str) -> Callable[[int], nn.Module]:
    match = re.fullmatch(r"(cifar|preact)_resnet(\d+)(?:_([ac]))?", name)
    assert match is not None, name  # parse_model lets no other name through
    kind, depth, option = match[1], int(match[2]), match[3]
    if kind == "preact":
        return partial(CifarPreActResNet, depth)
    return partial(CifarResNet, depth, shortcut=ShortcutOption((option or "b").upper()))
