"""A trained MobileNetV2 out of a Keras file, as a PyTorch module.

Reading it takes h5py; `answers` of the file itself take keras with its PyTorch backend (`pip install h5py keras`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

BATCHNORM_EPSILON = 1e-3
"""Source: keras.applications.mobilenet_v2."""

_BATCHNORM = ("gamma", "beta", "moving_mean", "moving_variance")


def read_mobilenet(path: Path) -> nn.Module:
    """Return the network of a Keras file: a MobileNetV2 of width 1 under a linear classifier.

    Its layers stand in the order of timm's, whose TensorFlow padding ("same") is Keras's.

    Raises:
        ValueError: If the file's layers are others.
    """
    import timm
    import torch
    from torch import nn

    arrays = _arrays(path)
    classifier = next(name for name, values in arrays.items() if "kernel" in values and values["kernel"].ndim == 2)
    head = arrays.pop(classifier)
    module = timm.create_model("mobilenetv2_100", num_classes=len(head["bias"]), pad_type="same")
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    if len(layers) != len(arrays):
        raise ValueError(f"{path}: got {len(arrays)} layers, expected {len(layers)}")
    with torch.no_grad():
        for layer, values in zip(layers, arrays.values(), strict=True):
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = BATCHNORM_EPSILON
                targets = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                for target, name in zip(targets, _BATCHNORM, strict=True):
                    target.copy_(torch.from_numpy(values[name]))
            else:
                depthwise = layer.groups > 1
                kernel = values["kernel"].transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
                layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        module.classifier.weight.copy_(torch.from_numpy(head["kernel"].T.copy()))
        module.classifier.bias.copy_(torch.from_numpy(head["bias"]))
    return module.eval()


def _arrays(path: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return each layer's constants, layers in the network's order; a depthwise kernel is called "kernel" too."""
    import h5py

    found: dict[str, dict[str, NDArray[np.float32]]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, constant = name.split("/")[-2:]
            found.setdefault(layer, {})[constant.removeprefix("depthwise_")] = np.asarray(item, np.float32)

    with h5py.File(path) as file:
        file["model_weights"].visititems(visit)
    return {layer: found[layer] for layer in sorted(found, key=_place)}


def _place(layer: str) -> tuple[int, int]:
    """Return a sort key: stem, block by block, head."""
    steps = ("expand", "expand_BN", "depthwise", "depthwise_BN", "project", "project_BN")
    fixed = {"Conv1": (-2, 0), "bn_Conv1": (-2, 1), "Conv_1": (99, 0), "Conv_1_bn": (99, 1)}
    if layer in fixed:
        return fixed[layer]
    if layer.startswith("expanded_conv_"):
        return -1, steps.index(layer.removeprefix("expanded_conv_"))
    if layer.startswith("block_"):
        _, number, step = layer.split("_", 2)
        return int(number), steps.index(step)
    return 100, 0


def answers(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities that Keras computes, float32 [N, classes].

    Args:
        path: The Keras file.
        images: Prepared images, float32 [N, 3, H, W].
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    model = keras.models.load_model(path, compile=False)
    found: NDArray[np.float32] = model.predict(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), verbose=0)
    return found
