"""Networks that are built here, ours and those of registered families, from a checkpoint file or random.

Nobody publishes default weights for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from exporter.errors import ModelObjectError, WeightsError
from exporter.models.architecture import (
    CIFAR_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Architecture,
    load_file,
    load_random,
)
from exporter.models.loaded_model import RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from exporter.models.model_names import Family, family_of
from exporter.networks.cifar_resnet import CifarBlock, CifarResNet, ShortcutOption
from exporter.networks.plain_network import PlainNetwork
from exporter.networks.preact_resnet import CifarPreActResNet, PreActResNet, PreActUnit

_IMAGENET_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "preact_resnet18": partial(PreActResNet, 18),
    "preact_resnet50": partial(PreActResNet, 50),
    "plain18": partial(PlainNetwork, 18),
    "plain34": partial(PlainNetwork, 34),
}


def load(request: ModelRequest) -> LoadedModel:
    """Build one of these networks and load its weights; see `exporter.models.load_model.load_model`."""
    architecture = architecture_for(request)
    if request.weights == RANDOM_WEIGHTS:
        build = architecture.build
        return load_random(replace(architecture, build=lambda num_classes: _damped(build(num_classes))), request)
    if is_weights_file(request.weights):
        return load_file(architecture, request)
    raise WeightsError(
        f"{architecture.model_id} has no published weights {request.weights!r}; give a file (.pth, .pt, .safetensors) "
        "or --weights random"
    )


def _damped(module: nn.Module) -> nn.Module:
    """Scale the end of each residual branch by 1 / sqrt(number of blocks), in place.

    Without, a random network of hundreds of blocks amplifies rounding: PyTorch's own float32 logits of a random
    ResNet-1202 are 5e-4 of the largest logit away from its float64 ones (measured), so no export could be checked.
    Source: De and Smith 2020, arXiv:2002.10444, section 2 (the scale at which a branch counts 1 / blocks in variance).
    """
    basic = [block.bn2.weight for block in module.modules() if isinstance(block, CifarBlock)]
    last = [unit.conv3 or unit.conv2 for unit in module.modules() if isinstance(unit, PreActUnit)]
    scaled = [*basic, *(convolution.weight for convolution in last)]
    with torch.no_grad():
        for weight in scaled:
            weight.mul_(len(scaled) ** -0.5)
    return module


def architecture_for(request: ModelRequest) -> Architecture:
    """Return the architecture of one of these networks.

    Raises:
        ModelObjectError: If another package's family does not give one.
    """
    name = request.reference.name
    family = family_of(name)
    if family is not None and family.architecture is not None:
        return _from_family(family, name)
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


def _from_family(family: Family, name: str) -> Architecture:
    assert family.architecture is not None
    try:
        architecture = family.architecture(name)
    except Exception as err:  # another package's code
        raise ModelObjectError(
            f"model family {family.name!r} cannot build {name}: {type(err).__name__}: {err}"
        ) from err
    if not isinstance(architecture, Architecture):
        raise ModelObjectError(
            f"model family {family.name!r}: got {architecture!r} for {name}, expected an Architecture"
        )
    return architecture
