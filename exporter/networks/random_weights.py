"""Random weights that exercise every layer and keep activations in range, so that a check on them means something.

Many networks begin with layers switched off (BatchNorm weights of 0 at the end of timm's residual blocks, a classifier
of zeros in Hiera, ConvNeXt's layer scale of 1e-6): an export could get them wrong unseen. Those are drawn anew.

Fresh BatchNorm has mean 0 and variance 1, which is true of no activation. In evaluation mode each residual block then
about doubles the variance: ResNet-101 leaves float16's range and ResNet-1202 float32's. A trained network does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SWITCHED_OFF = 1e-5
"""A weight whose largest |value| is not above this hardly counts; ConvNeXt's layer scale begins at 1e-6."""

_SPREAD = 0.02  # standard deviation that timm and torchvision draw transformers' weights with


def draw_convolutions(module: nn.Module) -> None:
    """Draw every convolution weight from N(0, 2 / (k * k * out_channels)), in place.

    Source: He et al. 2015, arXiv:1502.01852, equation 14 (the fan-out form, which torchvision also uses).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def switch_on(module: nn.Module, seed: int) -> list[str]:
    """Draw the weights anew that begin at (about) zero, in place: 1 for normalization, N(0, 0.02^2) for others.

    Args:
        module: Its biases are left as they are.
        seed: Of the draw.

    Returns:
        The names of the weights that were drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    names = []
    for path, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if name.endswith("bias") or float(parameter.detach().abs().max()) > SWITCHED_OFF:
                continue
            with torch.no_grad():
                if isinstance(layer, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)):
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(0.0, _SPREAD, generator=generator)
            names.append(f"{path}.{name}" if path else name)
    return names


def settle_batchnorm(module: nn.Module, images: Tensor) -> int:
    """Set running means per channel and one running variance per layer from one pass over `images`, in place.

    One variance per layer, because some channels hardly vary on a few pictures, and dividing by that would blow up
    others.

    Args:
        module: In evaluation mode, as it is afterwards.
        images: float32 [N, 3, H, W], N >= 2.

    Returns:
        How many BatchNorms were set.
    Source: after Mishkin and Matas 2016, arXiv:1511.06422 (layer-sequential unit variance).
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average of what it sees
        layer.train()
    with torch.no_grad():
        module(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval()
        layer.momentum = momentum
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        variance = float(layer.running_var.mean())
        layer.running_var.fill_(variance if variance > 0 else 1.0)
        layer.num_batches_tracked.zero_()
    return len(layers)
