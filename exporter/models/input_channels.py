"""Networks of other channels than red, green, blue: their first convolution, and those trained on blue, green, red."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.checkpoints.weight_layout import WeightLayout
from exporter.errors import ModelObjectError
from exporter.models.loaded_model import LoadedModel
from exporter.preprocessing.options import PreprocessingOptions

RGB = 3


def channels_in(state_dict: Mapping[str, Tensor], layout: WeightLayout) -> int | None:
    """Return how many channels the first convolution of a file takes, None where it has none of the architecture's."""
    name = next((name for name, shape in layout.shapes.items() if len(shape) == 4 and shape[1] == RGB), None)
    weight = None if name is None else state_dict.get(name)
    if name is None or weight is None or weight.ndim != 4:
        return None
    width, _, *kernel = layout.shapes[name]
    return int(weight.shape[1]) if weight.shape[0] == width and list(weight.shape[2:]) == kernel else None


def with_channels(module: nn.Module, channels: int) -> nn.Module:
    """Return `module`, its first convolution for so many channels; changed in place, its new values random.

    Raises:
        ModelObjectError: If it has no convolution of three channels.
    """
    for path, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            if child.in_channels == RGB and child.groups == 1:
                module.set_submodule(path, _widened(child, channels))
                return module
            break
    raise ModelObjectError(f"{type(module).__name__} does not begin with a convolution of three channels")


def _widened(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    result = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
        device=convolution.weight.device,
    )
    if type(convolution) is nn.Conv2d:
        return result
    weight, bias = result.weight, result.bias  # timm's own kinds of convolution pad in their own way
    convolution.weight, convolution.bias, convolution.in_channels = weight, bias, channels
    return convolution


def in_color_order(loaded: LoadedModel, options: PreprocessingOptions) -> LoadedModel:
    """Return a network that options say was trained on blue, green, red as one that takes red, green, blue.

    The class of the module is replaced by one whose forward turns the channels first, so that every path in it stays.
    """
    if options.color_order != "BGR":
        return loaded

    def forward(self: nn.Module, images: Tensor) -> Any:
        return base.forward(self, torch.index_select(images, 1, torch.tensor([2, 1, 0])))

    module = loaded.module
    base = type(module)
    module.__class__ = type(base.__name__, (base,), {"forward": forward})
    note = "trained on BGR: its channels are turned inside the network, so that the bundle takes RGB"
    return replace(loaded, module=module, takes_bgr=True, notes=(*loaded.notes, note))
