"""One small network per block type of the field, with the statistics that training leaves. Needs torch and timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import timm.layers
import torch
import torchvision
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import _gen_efficientnet
from timm.models.hiera import Hiera
from timm.models.res2net import Bottle2neck
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.sknet import SelectiveKernelBasic
from torch import nn
from torch.nn import functional as F
from torchvision.models.googlenet import BasicConv2d, Inception

from exporter.models.loaded_model import LoadedModel
from exporter.models.torchvision_source import IMAGENET_PREPROCESSING

SIZE = 64


class OptionA(nn.Module):
    """A CIFAR block whose shortcut takes every second pixel and pads new channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Plain(nn.Module):
    """No shortcut, and a head that adds two kinds of global pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = timm.layers.SelectAdaptivePool2d(pool_type="avgmax", flatten=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))))


def _resnet(block: type = BasicBlock, *, width: int = 0, depth: int = 1, **options: object) -> nn.Module:
    """Return two stages of a ResNet: blocks that add their input, then one with a stride and a projection.

    The first has a projection, too, where `width` is not what the stem gives.
    """
    channels = (width or 64 // block.expansion, 32, 32, 32)
    module = ResNet(block, [depth, 1, 1, 1], num_classes=10, channels=channels, **options)
    module.layer3 = module.layer4 = nn.Identity()
    module.fc = nn.Linear(channels[1] * block.expansion, 10)
    return module


def _preactivation(**options: object) -> nn.Module:
    return ResNetV2(layers=[2, 1], channels=(32, 64), num_classes=10, stem_chs=32, **options)


def _bit() -> nn.Module:
    norm, conv = timm.layers.GroupNormAct, timm.layers.StdConv2d
    options = {"norm_layer": norm, "conv_layer": conv, "stem_type": "fixed", "stem_chs": 32}
    return ResNetV2(layers=[1, 1], channels=(128, 128), num_classes=10, **options)


def _efficientnet() -> nn.Module:
    """Return three of EfficientNet-B0's seven stages, one block each: kernels of 3 and 5, strides of 1 and 2."""
    module = _gen_efficientnet("efficientnet_b0", 0.25, 0.2, num_classes=10)
    module.blocks = module.blocks[:3]
    channels = module.blocks[-1][-1].conv_pwl.out_channels
    module.conv_head = nn.Conv2d(channels, module.conv_head.out_channels, 1, bias=False)
    return module


def _convnext(**options: object) -> nn.Module:
    """Return two of four stages, which differ by nothing but their channels."""
    module = ConvNeXt(depths=(1, 1, 1, 1), dims=(16, 32, 32, 32), num_classes=10, **options)
    module.stages = module.stages[:2]
    return module


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "basic": _resnet,
    "bottleneck": lambda: _resnet(Bottleneck),
    "grouped": lambda: _resnet(Bottleneck, depth=2, cardinality=4, base_width=16),
    "resnet-d": lambda: _resnet(Bottleneck, stem_type="deep", stem_width=32, avg_down=True),
    "preactivation": lambda: _preactivation(
        norm_layer=timm.layers.BatchNormAct2d, conv_layer=timm.layers.create_conv2d
    ),
    "standardized": _bit,
    "se": lambda: _resnet(Bottleneck, block_args={"attn_layer": "se"}),
    "eca": lambda: _resnet(Bottleneck, block_args={"attn_layer": "eca"}),
    "sk": lambda: _resnet(
        SelectiveKernelBasic,
        width=16,
        depth=2,
        zero_init_last=False,
        block_args={"sk_kwargs": {"rd_ratio": 1 / 8, "rd_divisor": 16, "split_input": True}},
    ),
    "resnest": lambda: _resnet(
        ResNestBottleneck,
        stem_type="deep",
        stem_width=32,
        avg_down=True,
        base_width=16,
        cardinality=1,
        block_args={"radix": 2, "avd": True, "avd_first": False},
    ),
    "res2net": lambda: _resnet(Bottle2neck, base_width=56, block_args={"scale": 4}),
    "blur": lambda: _resnet(aa_layer=timm.layers.BlurPool2d),
    "dense": lambda: torchvision.models.DenseNet(8, (2, 3), 16, num_classes=10),
    "inception": lambda: nn.Sequential(
        BasicConv2d(3, 16, kernel_size=3, stride=4, padding=1),
        Inception(16, 8, 8, 16, 8, 16, 8),
        Inception(48, 8, 8, 16, 8, 16, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    ),
    "depthwise": _efficientnet,
    "convnext": lambda: _convnext(ls_init_value=1.0),
    "convnextv2": lambda: _convnext(use_grn=True, ls_init_value=None),
    "hiera": lambda: Hiera(
        img_size=(SIZE, SIZE), embed_dim=16, num_heads=1, stages=(1, 1, 1), q_pool=2, num_classes=10
    ),
    "option-a": OptionA,
    "plain": Plain,
}


def trained(name: str, seed: int = 0) -> nn.Module:
    """Return a block's network in evaluation mode, weights and statistics drawn as training leaves them."""
    torch.manual_seed(seed)
    module = BLOCKS[name]()
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for path, tensor in module.state_dict().items():
            if path.endswith("running_var"):
                uniform(tensor, 0.5, 1.5)
            elif path.endswith(("running_mean", "bias")) and tensor.ndim == 1:
                uniform(tensor, -0.2, 0.2)
            elif tensor.ndim == 1 and path.endswith(("weight", "gamma")):
                uniform(tensor, 0.5, 1.5)
            elif tensor.ndim >= 2 and path.endswith("weight") and tensor.std() < 5e-3:  # a head drawn near zero
                uniform(tensor, -0.1, 0.1)
    return module.eval()


def loaded(module: nn.Module, *, size: int = SIZE) -> LoadedModel:
    """Wrap a module as a model source does."""
    return LoadedModel(
        module=module,
        model_id="test",
        source="test",
        weights="random",
        weights_sha256="",
        preprocessing=dataclasses.replace(IMAGENET_PREPROCESSING, resize=(size, size), crop=None),
        preprocessing_source="test",
        num_classes=10,
        labels=None,
    )


@cache
def four_photographs() -> tuple[np.ndarray, ...]:
    import skimage.data

    return skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()


def photographs(count: int, *, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return crops of photographs, prepared, float32 [count, 3, size, size]."""
    from runtimes.preprocessing.transform import normalize

    random = np.random.default_rng(seed)
    photos = four_photographs()
    crops = []
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(random.integers(0, side - 2 * size)) for side in photo.shape[:2])
        crops.append(photo[top : top + 2 * size : 2, left : left + 2 * size : 2])
    return normalize(IMAGENET_PREPROCESSING, np.stack(crops))
