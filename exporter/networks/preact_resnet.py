"""Pre-activation ResNets: BatchNorm and ReLU stand before each convolution, and nothing after the addition.

A unit computes `shortcut + f(relu(bn1(x)))`. Where the shape changes, and in the very first unit, the shortcut starts
from `relu(bn1(x))` as well ("the first activation right after conv1 and before splitting into two paths"), elsewhere it
is `x` itself. A projection is a bare 1x1 convolution, `downsample`, without BatchNorm. After the last unit come one
more BatchNorm and ReLU. A bottleneck strides in its 3x3 convolution, as torchvision's and timm's do.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, section 4.1 and appendix, and
the authors' code (KaimingHe/resnet-1k-layers, resnet-pre-act.lua), which strides in the first 1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exporter.networks.random_weights import draw_convolutions

IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Units per stage. Source: He et al. 2015, arXiv:1512.03385, table 1."""

CIFAR_DEPTHS = (110, 164, 1001)
"""The depths of He et al. 2016, table 4: 110 of two 3x3 convolutions per unit, 164 and 1001 of bottlenecks."""


class PreActUnit(nn.Module):
    """One residual unit: BatchNorm, ReLU and convolution, two times (basic) or three times (bottleneck).

    Args:
        in_channels: Channels of the input, float32 [N, in_channels, H, W].
        out_channels: Channels of the output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)].
        stride: In pixels.
        bottleneck: 1x1, 3x3, 1x1 at a quarter of `out_channels`, rather than two 3x3.
        shares_activation: The shortcut starts from `relu(bn1(x))`, not from `x`; needed where the shape changes.
    Source: He et al. 2016, arXiv:1603.05027, figure 4 (e) and appendix.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, bottleneck: bool, shares_activation: bool
    ) -> None:
        super().__init__()
        width = out_channels // 4 if bottleneck else out_channels
        first_kernel, first_stride = (1, 1) if bottleneck else (3, stride)
        second_stride = stride if bottleneck else 1
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = _convolution(in_channels, width, first_kernel, stride=first_stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride=second_stride)
        self.bn3 = nn.BatchNorm2d(width) if bottleneck else None
        self.conv3 = _convolution(width, out_channels, 1, stride=1) if bottleneck else None
        changes_shape = stride != 1 or in_channels != out_channels
        self.downsample = _convolution(in_channels, out_channels, 1, stride=stride) if changes_shape else None
        self.shares_activation = shares_activation or changes_shape

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        activated = self.relu(self.bn1(x))
        shortcut = activated if self.shares_activation else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        out = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        if self.bn3 is not None and self.conv3 is not None:
            out = self.conv3(self.relu(self.bn3(out)))
        result: Tensor = out + shortcut
        return result


class PreActResNet(nn.Module):
    """A pre-activation ResNet of 18 (basic units) or 50 layers (bottlenecks): 7x7 stem, max pool, four stages.

    Raises:
        ValueError: If `depth` is another, or `num_classes` < 1.

    Source: He et al. 2016, arXiv:1603.05027, appendix; stage widths of He et al. 2015, table 1.
    """

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        if depth not in IMAGENET_BLOCKS:
            raise ValueError(f"depth: got {depth}, expected one of {sorted(IMAGENET_BLOCKS)}")
        _check_num_classes(num_classes)
        bottleneck = depth == 50
        widths = [width * (4 if bottleneck else 1) for width in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = 64
        stages = []
        for index, (width, num_units) in enumerate(zip(widths, IMAGENET_BLOCKS[depth], strict=True)):
            stride = 1 if index == 0 else 2
            stages.append(
                _stage(in_channels, width, num_units, stride=stride, bottleneck=bottleneck, is_first=index == 0)
            )
            in_channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        draw_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 [N, num_classes], of float32 [N, 3, H, W]; made for 224x224."""
        x = self.maxpool(self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.relu(self.bn(x))), 1))
        return logits


class CifarPreActResNet(nn.Module):
    """A pre-activation ResNet for small images: 3x3 stem, three stages of 16, 32, 64 channels (times 4: bottlenecks).

    Args:
        depth: 110 (6n + 2 with basic units), 164 or 1001 (9n + 2 with bottlenecks).
        num_classes: Rows of the classifier, >= 1.

    Raises:
        ValueError: If `depth` is another, or `num_classes` < 1.
    Source: He et al. 2016, arXiv:1603.05027, section 5 and appendix; 1.7 M parameters at depth 164, 10.2 M at 1001.
    """

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth not in CIFAR_DEPTHS:
            raise ValueError(f"depth: got {depth}, expected one of {list(CIFAR_DEPTHS)}")
        _check_num_classes(num_classes)
        bottleneck = depth != 110
        num_units = (depth - 2) // (9 if bottleneck else 6)
        narrow, middle, wide = (width * (4 if bottleneck else 1) for width in (16, 32, 64))
        self.conv1 = _convolution(3, 16, 3, stride=1)
        self.layer1 = _stage(16, narrow, num_units, stride=1, bottleneck=bottleneck, is_first=True)
        self.layer2 = _stage(narrow, middle, num_units, stride=2, bottleneck=bottleneck, is_first=False)
        self.layer3 = _stage(middle, wide, num_units, stride=2, bottleneck=bottleneck, is_first=False)
        self.bn = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, num_classes)
        draw_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 [N, num_classes], of float32 [N, 3, H, W]; made for 32x32."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.relu(self.bn(x))), 1))
        return logits


def _stage(
    in_channels: int, out_channels: int, num_units: int, *, stride: int, bottleneck: bool, is_first: bool
) -> nn.Sequential:
    """Return `num_units` units; the first one changes the shape. `is_first`: the network begins here."""
    first = PreActUnit(in_channels, out_channels, stride=stride, bottleneck=bottleneck, shares_activation=is_first)
    others = (
        PreActUnit(out_channels, out_channels, stride=1, bottleneck=bottleneck, shares_activation=False)
        for _ in range(num_units - 1)
    )
    return nn.Sequential(first, *others)


def _convolution(in_channels: int, out_channels: int, kernel_size: int, *, stride: int) -> nn.Conv2d:
    """Return a convolution that keeps H and W at stride 1; no bias."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size=kernel_size, stride=stride, padding=kernel_size // 2, bias=False
    )


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
