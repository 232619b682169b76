"""Recognize networks whose classifier was taken away: what comes out is features, though [N, C] as logits are.

Told by a child of a classifier's name that is an Identity, or by how the output was computed (its autograd graph):
pooled from a residual sum, or divided by its own length. See `exporter.graph.feature_ends`, the same of ONNX files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.checkpoints.replaced_head import HEAD_WORDS

_MOVING = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Clone", "Alias", "Permute", "Transpose")
_POOLS = ("Mean", "AdaptiveAvgPool2D", "AvgPool2D", "AdaptiveMaxPool2D", "MaxPool2DWithIndices", "Amax", "Max")
_ACTIVATIONS = ("Relu", "LeakyRelu", "Elu", "Silu", "Gelu", "Hardswish", "Hardtanh", "Mul", "NativeBatchNorm")
_NORMS = ("LinalgVectorNorm", "Norm")
_LIMITED = ("Expand", "ClampMin", "Clamp", "Add")


def why_features(module: nn.Module, input_shape: tuple[int, int, int]) -> str | None:
    """Return why the [N, C] made of pictures [C, H, W] in evaluation mode are features; None where nothing shows it."""
    child = next((name for name, child in module.named_children() if name in HEAD_WORDS and _is_identity(child)), None)
    return f"its {child!r} is an Identity" if child is not None else _how_computed(module, input_shape)


def _is_identity(child: nn.Module) -> bool:
    steps = list(child) if isinstance(child, nn.Sequential) else [child]
    return all(isinstance(step, (nn.Identity, nn.Flatten, nn.Dropout)) for step in steps) and bool(steps)


def _how_computed(module: nn.Module, input_shape: tuple[int, int, int]) -> str | None:
    """Return what the end of the computation shows, None where it shows nothing."""
    images = torch.zeros(2, *input_shape, requires_grad=True)
    try:
        with torch.enable_grad():
            output = module(images)
    except Exception:  # the network's code may raise anything; what runs it next says so in the user's words
        return None
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        return None
    end = _behind(output.grad_fn, _MOVING)
    if _kind(end) == "Div" and _kind(_behind(_source(end, 1), _LIMITED)) in _NORMS:
        return "each answer is divided by its own length"
    if _kind(end) not in _POOLS:
        return None
    block = _behind(_source(end, 0), (*_MOVING, *_ACTIVATIONS))
    sources = [source for source, _ in block.next_functions] if block is not None else []
    is_sum = (
        _kind(block) == "Add" and len(sources) == 2 and all(_kind(one) not in ("", "AccumulateGrad") for one in sources)
    )
    return "it ends in the pooling behind a residual block" if is_sum else None


def _kind(function: Any) -> str:
    """Return "Mean" for MeanBackward1."""
    return "" if function is None else type(function).__name__.partition("Backward")[0]


def _source(function: Any, place: int) -> Any:
    sources = function.next_functions
    return sources[place][0] if place < len(sources) else None


def _behind(function: Any, passed: tuple[str, ...]) -> Any:
    while function is not None and _kind(function) in passed and function.next_functions:
        function = _source(function, 0)
    return function
