"""Plain networks: an ImageNet ResNet without its shortcuts, for the degradation comparison.

They are torchvision's ResNets with another block, so that modules are named alike (`conv1`, `bn1`, `layer1..4`, `fc`).
Source: He et al. 2015, arXiv:1512.03385, section 3.3 (plain network) and table 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet

BLOCKS_OF_DEPTH = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Pairs of 3x3 convolutions per stage. Source: He et al. 2015, table 1."""


class PlainBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """Two 3x3 convolutions, each with BatchNorm and ReLU: a ResNet's basic block without the addition.

    Source: He et al. 2015, arXiv:1512.03385, figure 3, middle.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *unused: Any, **options: Any) -> None:
        super().__init__(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float32 [N, out_channels, ceil(H / stride), ceil(W / stride)], >= 0."""
        result: Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return result


class PlainNetwork(ResNet):  # type: ignore[misc]
    """A plain network of 18 or 34 layers in ImageNet's layout: float32 [N, 3, H, W] in, logits [N, num_classes] out.

    Raises:
        ValueError: If `depth` is another, or `num_classes` < 1.
    """

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        if depth not in BLOCKS_OF_DEPTH:
            raise ValueError(f"depth: got {depth}, expected one of {sorted(BLOCKS_OF_DEPTH)}")
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, expected at least 1")
        super().__init__(PlainBlock, list(BLOCKS_OF_DEPTH[depth]), num_classes)
