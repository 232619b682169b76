"""Our CIFAR ResNets, from a checkpoint file or random; nobody publishes default weights for them."""

from __future__ import annotations

from functools import partial

from exporter.architecture import Architecture, load_file, load_random
from exporter.cifar_resnet import CifarResNet
from exporter.errors import WeightsError
from exporter.loaded_model import RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from runtimes.preprocessing import Interpolation, Preprocessing

CIFAR_PREPROCESSING = Preprocessing(
    resize=(32, 32),
    crop=None,
    interpolation=Interpolation.BILINEAR,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
"""Mean and per-pixel standard deviation of CIFAR-10's training images, as the field rounds them."""


def load(request: ModelRequest) -> LoadedModel:
    """Build a CIFAR ResNet and load its weights; see `exporter.load_model.load_model`."""
    architecture = Architecture(
        model_id=request.name,
        source="resnet-export",
        build=partial(CifarResNet, int(request.name.removeprefix("cifar_resnet"))),
        num_classes=10,
        preprocessing=CIFAR_PREPROCESSING,
        preprocessing_source="assumed: CIFAR-10's (the weights do not say)",
    )
    if request.weights == RANDOM_WEIGHTS:
        return load_random(architecture, request)
    if is_weights_file(request.weights):
        return load_file(architecture, request)
    raise WeightsError(
        f"{request.name} has no published weights {request.weights!r}; give a file (.pth, .pt, .safetensors) "
        "or --weights random"
    )
