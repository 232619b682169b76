"""Spell, while a module is traced, what `torch.onnx` would write in a form that TensorRT or the exporter cannot take.

    scaled_dot_product_attention(q, k, v)  ->  softmax(q k^T / sqrt(d)) v
        torch.onnx refuses it on tensors of five axes (Hiera's windows), and writes both factors scaled otherwise.
    adaptive_avg_pool2d(x, 1)              ->  x.mean((-2, -1), keepdim=True), and x itself to its own size (VGG)
        After a permute, PyTorch's own decomposition restores the memory layout with a Gather over computed indices.
    adaptive_max_pool2d(x, 7)              ->  the largest of each window's rows, then of its columns
        torch.onnx writes only those whose windows are of one size.
    group_norm(x, G)                       ->  layer_norm over each group, then x w + b
        torch.onnx writes InstanceNormalization between Reshapes to sizes that are computed at run time.
    rrelu(x, lower, upper)                 ->  leaky_relu(x, (lower + upper) / 2)
        So PyTorch computes it in evaluation mode; torch.onnx has no operator for it.
    clamp(x, 0, 1.5)                       ->  clamp(x, 0.0, 1.5)
        torch.onnx, of PyTorch 2.14, finds no operator for bounds of two types.
    avg_pool2d(x, k, divisor_override=d)   ->  avg_pool2d(x, k) k k / d
        torch.onnx leaves the divisor out.
    hardtanh(x, inplace=True) and the like ->  x.copy_(hardtanh(x))
        The same graph; PyTorch decomposes the first anew at every call, most of the time of tracing a MobileNet.

The arithmetic is the same up to the order of sums; the export is compared with the module as it is.
Source: torch.nn.functional.scaled_dot_product_attention, documentation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ACTIVATIONS = frozenset({F.hardtanh, F.relu6, F.hardswish, F.hardsigmoid, F.leaky_relu, F.elu})
_CLAMPS = frozenset(getattr(of, name) for of in (torch, Tensor) for name in ("clamp", "clamp_", "clip", "clip_"))
_RANDOM_SLOPES = frozenset({F.rrelu, torch.rrelu, torch.rrelu_})


class PlainFunctions(TorchFunctionMode):
    """Inside `with PlainFunctions():` the functions of the module docstring run in their plain form."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace a call where its plain form is known; PyTorch's protocol."""
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and not _is_masked(args, named):
            given = {key: named[key] for key in ("query", "key", "value", "scale") if key in named}
            return _attention(*args[:3], **given)
        if func is F.adaptive_avg_pool2d and not named:
            size = (args[1], args[1]) if isinstance(args[1], int) else tuple(args[1])
            if size == (1, 1):
                return args[0].mean((-2, -1), keepdim=True)
            if size == tuple(args[0].shape[-2:]):
                return args[0]
        if func is F.adaptive_max_pool2d and not named.get("return_indices") and _has_uneven_windows(*args[:2]):
            return _largest(*args[:2])
        if func is F.avg_pool2d and (named.get("divisor_override") is not None or len(args) > 6):
            return _average(*args, **named)
        if func in _RANDOM_SLOPES:
            return _mean_slope(func, *args, **named)
        if func in _ACTIVATIONS:
            return _activated(func, *args, **named)
        if func in _CLAMPS and any(isinstance(bound, float) for bound in (*args[1:], *named.values())):
            return func(*map(_as_float, args), **{name: _as_float(bound) for name, bound in named.items()})
        if func is F.group_norm and isinstance(args[0].shape[1], int):
            return _group_norm(*args, **named)
        return func(*args, **named)


def _is_masked(args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Tell whether a call uses more than query, key, value and scale."""
    return len(args) > 3 or bool(
        named.get("attn_mask") is not None
        or named.get("is_causal")
        or named.get("enable_gqa")
        or named.get("dropout_p", 0.0) != 0.0
    )


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return torch.matmul(torch.softmax(torch.matmul(query * factor, key.transpose(-2, -1)), dim=-1), value)


def _average(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Source: torch.nn.AvgPool2d, documentation: the sum of every window is divided by `divisor_override`."""
    kernel = _pair(kernel_size)
    steps = _pair(stride) if stride else kernel  # an empty stride is none
    given = _pair(padding)
    if divisor_override is None:
        return F.avg_pool2d(input, kernel, steps, given, ceil_mode, count_include_pad)
    factor = kernel[0] * kernel[1] / divisor_override
    if not ceil_mode:
        return F.avg_pool2d(input, kernel, steps, given) * factor
    sizes = F.avg_pool2d(input, kernel, steps, given, ceil_mode=True).shape[-2:]
    ends = [
        max(0, (sizes[axis] - 1) * steps[axis] + kernel[axis] - input.shape[axis - 2] - given[axis]) for axis in (0, 1)
    ]
    return F.avg_pool2d(F.pad(input, (given[1], ends[1], given[0], ends[0])), kernel, steps) * factor


def _has_uneven_windows(input: Tensor, output_size: int | Sequence[int | None]) -> bool:
    return any(whole % count for whole, count in zip(input.shape[-2:], _sides(input, output_size), strict=True))


def _sides(input: Tensor, output_size: int | Sequence[int | None]) -> tuple[int, ...]:
    """Return height and width of an adaptive pool's output; None keeps the input's."""
    given = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
    return tuple(whole if side is None else side for whole, side in zip(input.shape[-2:], given, strict=True))


def _largest(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Source: ATen, AdaptivePooling.h: window i of n begins at floor(i size / n) and ends at ceil((i + 1) size / n)."""
    found = input
    for axis, count in zip((-2, -1), _sides(input, output_size), strict=True):
        whole = found.shape[axis]
        windows = [(place * whole // count, -(-(place + 1) * whole // count)) for place in range(count)]
        parts = [found.narrow(axis, begin, end - begin).amax(axis, keepdim=True) for begin, end in windows]
        found = torch.cat(parts, axis)
    return found


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    given = (size,) if isinstance(size, int) else tuple(size)
    return given[0], given[-1]


def _mean_slope(
    function: Callable[..., Tensor],
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Source: torch.nn.RReLU, documentation: in evaluation mode the slope is the mean of its range."""
    if training:
        return function(input, lower, upper, True, **({"inplace": True} if inplace else {}))
    return _activated(F.leaky_relu, input, (lower + upper) / 2, inplace=inplace or function is torch.rrelu_)


def _activated(function: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
    given = inspect.signature(function).bind(*args, **named)
    if not given.arguments.pop("inplace", False):
        return function(*args, **named)
    changed: Tensor = given.arguments["input"]
    return changed.copy_(function(*given.args, **given.kwargs))


def _as_float(bound: Any) -> Any:
    return float(bound) if isinstance(bound, int) else bound


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    normed = F.layer_norm(grouped, [grouped.shape[-1]], eps=eps).reshape(input.shape)
    view = [1, input.shape[1], *[1] * (input.ndim - 2)]
    normed = normed if weight is None else normed * weight.reshape(view)
    return normed if bias is None else normed + bias.reshape(view)
