"""ResNets for small images (CIFAR style): a 3x3 stem, no max pool, three stages of 16, 32 and 64 channels.

Modules are named as torchvision names them (`conv1`, `bn1`, `relu`, `layer1..3`, `downsample.0/1`, `avgpool`,
`fc`), so that every pass that knows a torchvision ResNet knows these too. The differences from torchvision's
ImageNet ResNets are the stem (3x3, stride 1, no max pool) and the missing `layer4`.

Source: He et al. 2015, arXiv:1512.03385, section 4.2.
"""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.networks.random_weights import draw_convolutions

STAGE_WIDTHS = (16, 32, 64)
"""Channels of `layer1`, `layer2`, `layer3`. Source: He et al. 2015, section 4.2."""

PAPER_DEPTHS = (20, 32, 44, 56, 110, 1202)
"""The depths of He et al. 2015, table 6."""


class ShortcutOption(Enum):
    """Kind of shortcut of a block. Source: He et al. 2015, arXiv:1512.03385, sections 3.3 and 4.1."""

    A = "A"
    """Identity; where the shape changes every second pixel, and channels of zeros. No weights."""
    B = "B"
    """Identity; where the shape changes a 1x1 convolution and BatchNorm."""
    C = "C"
    """A 1x1 convolution and BatchNorm in every block."""


def blocks_per_stage(depth: int) -> int:
    """Return n >= 1, the residual blocks in each of the three stages of a ResNet of `depth` = 6n + 2 layers.

    Raises:
        ValueError: If no n >= 1 gives this depth.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2.
    """
    num_blocks, rest = divmod(depth - 2, 6)
    if rest or num_blocks < 1:
        expected = ", ".join(map(str, PAPER_DEPTHS))
        raise ValueError(f"depth: got {depth}, expected 6n + 2 with n >= 1; the paper's are {expected}")
    return num_blocks


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`.

    Args:
        in_channels: Channels of the input, float32 [N, in_channels, H, W].
        out_channels: Channels of the output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)].
        stride: Stride of `conv1`, in pixels.
        downsample: The shortcut from input shape to output shape; None is the identity.
    Source: He et al. 2015, arXiv:1512.03385, figure 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        # One module for both places, as torchvision has it; not in place, so hooks see what was computed.
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(out_channels, out_channels, stride=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [N, out_channels, ceil(H / stride), ceil(W / stride)], >= 0, of [N, in_channels, H, W]."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + identity)
        return result


class ZeroPadShortcut(nn.Module):
    """Option A's shortcut where the shape changes: every `stride`-th pixel, zeros for the new channels.

    Half of the new channels stand before the old ones and half behind (the smaller half first), as in the
    implementations whose checkpoints are in use (TensorFlow's models, akamaster/pytorch_resnet_cifar10); the paper
    does not say where.

    Source: He et al. 2015, arXiv:1512.03385, section 3.3 (A).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return the shortcut's output; float32 [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class CifarResNet(nn.Module):
    """A CIFAR-style ResNet.

    With option B its parameter count is 97216 n - 19824 + 65 num_classes (depth = 6n + 2), so with 10 classes:
    ResNet-20 272 474, -32 466 906, -44 661 338, -56 855 770, -110 1 730 714, -1202 19 424 026.
    The paper's own CIFAR models use option A, which has 2 752 parameters fewer (ResNet-20: 269 722).

    Args:
        depth: 6n + 2 layers: 20, 32, 44, 56, 110 and 1202 in the paper.
        num_classes: Rows of the classifier, >= 1.
        shortcut: Which shortcuts the blocks have.

    Raises:
        ValueError: If `depth` is not 6n + 2 with n >= 1, or `num_classes` < 1.
    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (option B: section 4.1); counts from layer shapes.
    """

    def __init__(self, depth: int, num_classes: int = 10, *, shortcut: ShortcutOption = ShortcutOption.B) -> None:
        super().__init__()
        num_blocks = blocks_per_stage(depth)
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
        narrow, middle, wide = STAGE_WIDTHS
        self.conv1 = _conv3x3(3, narrow, stride=1)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU()
        self.layer1 = _stage(narrow, narrow, num_blocks, stride=1, shortcut=shortcut)
        self.layer2 = _stage(narrow, middle, num_blocks, stride=2, shortcut=shortcut)
        self.layer3 = _stage(middle, wide, num_blocks, stride=2, shortcut=shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, num_classes)
        draw_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 [N, num_classes], of float32 [N, 3, H, W]; made for 32x32, any H, W >= 1 fits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(
    in_channels: int, out_channels: int, num_blocks: int, *, stride: int, shortcut: ShortcutOption
) -> nn.Sequential:
    """Return `num_blocks` blocks; the first one changes the shape, with its shortcut."""
    blocks = []
    for index in range(num_blocks):
        block_stride = stride if index == 0 else 1
        downsample = _shortcut(in_channels, out_channels, stride=block_stride, option=shortcut)
        blocks.append(CifarBlock(in_channels, out_channels, stride=block_stride, downsample=downsample))
        in_channels = out_channels
    return nn.Sequential(*blocks)


def _shortcut(in_channels: int, out_channels: int, *, stride: int, option: ShortcutOption) -> nn.Module | None:
    """Return the module on a block's shortcut; None is the identity."""
    if stride == 1 and in_channels == out_channels and option is not ShortcutOption.C:
        return None
    if option is ShortcutOption.A:
        return ZeroPadShortcut(in_channels, out_channels, stride=stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _conv3x3(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps H and W at stride 1; no bias, since BatchNorm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
