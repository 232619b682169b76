"""Networks that weights alone do not tell apart: their tensors have the same names and shapes.

Strides, dilation, padding, pooling and blur have no weights. `timm:resnetblur50` answers otherwise than `resnet50`, and
its file looks the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LOOK_ALIKES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "resnet18": ("timm:resnetblur18",),
        "resnet50": ("timm:resnetaa50", "timm:resnetblur50"),
        "resnet50d": ("timm:resnetaa50d", "timm:resnetblur50d"),
        "efficientnet_lite0": ("timm:tf_efficientnet_lite0",),
    }
)
"""The plainest network, and those that its files fit as well.

Source: names and shapes of 324 models of timm 1.0.31 compared with those of the models known here."""

UNSEEN = "strides, dilation, padding and pooling have no weights"


def candidates(name: str) -> tuple[str, ...]:
    """Return `name` and every known network that the same file fits, the plainest first."""
    return (name, *LOOK_ALIKES.get(name, ()))
