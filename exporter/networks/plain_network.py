"""Plain networks: an ImageNet ResNet without its shortcuts, for the degradation comparison.

Modules are named as torchvision names a ResNet's (`conv1`, `bn1`, `layer1..4`, `fc`).
Source: He et al. 2015, arXiv:1512.03385, section 3.3 (plain network) and table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCKS_OF_DEPTH = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Pairs of 3x3 convolutions per stage. Source: He et al. 2015, table 1."""

STAGE_WIDTHS = (64, 128, 256, 512)
"""Channels of `layer1` to `layer4`. Source: He et al. 2015, table 1."""


class PlainBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm and ReLU: a ResNet's basic block without the addition.

    Args:
        in_channels: Channels of the input, float32 [N, in_channels, H, W].
        out_channels: Channels of the output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)].
        stride: Stride of `conv1`, in pixels.
    Source: He et al. 2015, arXiv:1512.03385, figure 3, middle.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)], >= 0."""
        out = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.bn2(self.conv2(out)))
        return result


class PlainNetwork(nn.Module):
    """A plain network of the ImageNet layout.

    Its parameters are those of torchvision's ResNet of the same depth less the three projections
    (173 824): 11 515 688 at depth 18 and 21 623 848 at depth 34, with 1000 classes.

    Args:
        depth: 18 or 34.
        num_classes: Rows of the classifier, >= 1.

    Raises:
        ValueError: If `depth` is another, or `num_classes` < 1.
    Source: He et al. 2015, arXiv:1512.03385, section 3.3 and table 1; counts from layer shapes.
    """

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        if depth not in BLOCKS_OF_DEPTH:
            raise ValueError(f"depth: got {depth}, expected one of {sorted(BLOCKS_OF_DEPTH)}")
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = 64
        stages = []
        for index, (width, num_blocks) in enumerate(zip(STAGE_WIDTHS, BLOCKS_OF_DEPTH[depth], strict=True)):
            first = PlainBlock(in_channels, width, stride=1 if index == 0 else 2)
            others = (PlainBlock(width, width, stride=1) for _ in range(num_blocks - 1))
            stages.append(nn.Sequential(first, *others))
            in_channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 [N, num_classes].

        Args:
            x: float32 [N, 3, H, W]; made for 224x224.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
