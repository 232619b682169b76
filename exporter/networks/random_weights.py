"""Random weights that exercise every layer and keep activations in range, so that a check on them means something.

Many networks begin with layers switched off (BatchNorm weights of 0 at the end of timm's residual blocks, a classifier
of zeros in Hiera, ConvNeXt's layer scale of 1e-6): an export could get them wrong unseen. Those are drawn anew.

Fresh BatchNorm has mean 0 and variance 1, which is true of no activation. In evaluation mode each residual block then
about doubles the variance: ResNet-101 leaves float16's range and ResNet-1202 float32's. A trained network does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SWITCHED_OFF = 1e-5
"""A weight whose largest |value| is not above this hardly counts; ConvNeXt's layer scale begins at 1e-6."""

LARGEST_ANSWER = 100.0
"""Logits of trained networks are about 10; far beyond, float32 itself loses what a comparison is about."""

_SPREAD = 0.02  # standard deviation that timm and torchvision draw transformers' weights with


def draw_convolutions(module: nn.Module) -> None:
    """Draw every convolution weight from N(0, 2 / (k * k * out_channels)), in place.

    Source: He et al. 2015, arXiv:1502.01852, equation 14 (the fan-out form, which torchvision also uses).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def switch_on(module: nn.Module, seed: int) -> list[str]:
    """Draw weights anew that begin at about 0, in place: 1 for normalization, else N(0, 0.02^2); return their names."""
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


def settle_batchnorm_for(module: nn.Module, candidates: Sequence[Tensor], judged: Tensor) -> int:
    """Settle on the first set of images after which the answers on `judged` stay in range, else on the last; in place.

    A deep network on small pictures has a few values per channel in its last layers. Settled on two pictures, it gives
    answers of 1 on these and of 10,000 on others, and there float32 itself is half of that away from float64: nothing
    can be compared any more. (timm's regnetv_040, efficientnetv2_rw_t, resnetrs50 and mixnet_s at 64 pixels.)

    Args:
        module: In evaluation mode, as it is afterwards.
        candidates: Sets of images, float32 [N, 3, H, W] each, N >= 2; the smallest first.
        judged: Images that none of these need hold, float32 [N, 3, H, W].
    """
    count = 0
    for images in candidates:
        count = settle_batchnorm(module, images)
        if not count or _largest_answer(module, judged) <= LARGEST_ANSWER:
            break
    return count


def settle_batchnorm(module: nn.Module, images: Tensor) -> int:
    """Set running means per channel and one running variance per layer, in place, by images float32 [N >= 2, 3, H, W].

    One variance per layer, because some channels hardly vary on a few pictures, and dividing by that would blow up
    others. The pass divides each channel by its own, so that in evaluation mode every layer reads a little more than it
    was settled on. Where that adds up (pre-activation and mixed kernels), layers are settled again one after the other,
    each on what the settled ones before it give.

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
    if not _largest_answer(module, images) <= LARGEST_ANSWER:
        _settle_in_turn(module, layers, images)
    return len(layers)


def _largest_answer(module: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        answers = module(images)
    several = answers if isinstance(answers, (list, tuple)) else [answers]
    return max((float(one.abs().max()) for one in several if isinstance(one, Tensor)), default=0.0)


def _settle_in_turn(module: nn.Module, layers: Sequence[_BatchNorm], images: Tensor) -> None:
    """Set the statistics of each layer in evaluation mode, as it is reached for the first time, in place."""
    left = set(layers)

    def settle(layer: _BatchNorm, given: tuple[Tensor, ...]) -> None:
        if layer not in left:
            return
        left.remove(layer)
        channels = given[0].double().transpose(0, 1).flatten(1)
        variance = float(channels.var(1).mean())
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(channels.mean(1))
        layer.running_var.fill_(variance if variance > 0 else 1.0)

    hooks = [layer.register_forward_pre_hook(settle) for layer in layers]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for hook in hooks:
            hook.remove()
