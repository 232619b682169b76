"""How far float32 may bring a module's answers from the exact ones, whatever the processor and its order of sums.

PyTorch's own float32 answers are one sample of that, and a poor yardstick: another processor adds the same terms in
another order, and by luck one of two right computations is several times nearer to the truth than the other. So the
module runs in float64, once as it is and a few times with a random error after every operation, as large as float32
may make there. With u = 2**-24, K the terms of a sum, and N a standard normal number:

    sum of products    y + N u (2 sum |x w| + sqrt(K) |y|)      convolutions, matrix products, means
    batch norm         y + N u ((|x| + |mean|) |scale| + |bias|)
    normalization      y + N 4 u max |y|                        softmax, layer and group norm, attention
    anything else      y + N u |y|                              nothing where values are only moved or compared

Terms of random sign make an error of u sum |x w|, terms of one sign one of sqrt(K) u |y|, in whatever order they are
added; blocked and fused sums make less.

Source: N. Higham, T. Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019
(errors behave as independent and of mean zero, so K of them grow as sqrt(K)).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.errors import ExportCheckError
from exporter.tracing.check_export import ExactOutput

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one rounding to float32, to nearest."""

NUM_DRAWS = 4
SEED = 20_240_601


def exact_outputs(module: nn.Module, images: NDArray[np.float32]) -> list[ExactOutput]:
    """Return what a copy of the module gives in float64 for float32 [n, 3, H, W], and how far off float32 may be."""
    double = copy.deepcopy(module).to(device="cpu", dtype=torch.float64)
    inputs = torch.from_numpy(np.array(images, np.float64))
    try:
        exact = _run(double, inputs)
    except RuntimeError as err:  # its layers are float64 here, and it casts to another type itself
        told = f"answers in float32 differ; whether by rounding is not seen, as in float64 the module ends in {err}"
        raise ExportCheckError(f"{told}; take casts (.half(), .float()) out of its forward") from err
    rounding = [0.0] * len(exact)
    for draw in range(NUM_DRAWS):
        with _Float32Errors(torch.Generator().manual_seed(SEED + draw)):
            noisy = _run(double, inputs)
        rounding = [
            max(largest, float((left - right).abs().max())) if left.numel() else largest
            for largest, left, right in zip(rounding, exact, noisy, strict=True)
        ]
    return [ExactOutput(values.numpy(), largest) for values, largest in zip(exact, rounding, strict=True)]


def _run(module: nn.Module, inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = module(inputs)
    return list(output) if isinstance(output, tuple) else [output]


class _Float32Errors(TorchDispatchMode):
    """Adds to the result of every operation on float64 tensors the error that float32 could make."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        name = func.overloadpacket.__name__
        if name in _EXACT or func.is_view or name.endswith("_like"):
            return result
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if not isinstance(first, Tensor) or first.dtype != torch.float64 or not _reads_floats(args):
            return result
        of_name = _ERRORS.get(name)
        size = first.abs() if of_name is None else of_name(func, args, given, first)  # of one rounding
        noise = torch.randn(first.shape, dtype=torch.float64, generator=self._generator)
        first.add_(noise.mul_(size.mul(UNIT_ROUNDOFF)))
        return result


def _reads_floats(args: Sequence[Any]) -> bool:
    flat = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    return any(isinstance(item, Tensor) and item.dtype == torch.float64 for item in flat)


# fmt: off
_EXACT = frozenset({
    "abs", "alias", "amax", "amin", "argmax", "cat", "clamp", "clamp_max", "clamp_min", "clamp_min_", "clone",
    "constant_pad_nd", "copy_", "detach", "dropout", "empty", "eq", "expand", "fill_", "flip", "full", "gather", "ge",
    "gt", "hardtanh", "hardtanh_", "im2col", "index", "index_select", "le", "leaky_relu", "lt", "masked_fill", "max",
    "max_pool2d", "max_pool2d_with_indices", "maximum", "min", "minimum", "native_dropout", "ne", "neg", "new_zeros",
    "pad", "pixel_shuffle", "pixel_unshuffle", "reflection_pad2d", "relu", "relu_", "repeat", "replication_pad2d",
    "roll", "scalar_tensor", "select", "slice", "sort", "split", "stack", "threshold", "topk", "upsample_nearest2d",
    "where", "zeros", "_to_copy", "_unsafe_view",
})
# fmt: on
"""Operations that move or compare values and round nothing."""

Error = Callable[[Any, Sequence[Any], Mapping[str, Any], Tensor], Tensor]
"""Of an operation, its arguments and its result: the error's standard deviation in units of u, the result's shape."""


def _of_products(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Tensor:
    sizes: Tensor = func(*(arg.abs() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)
    return 2 * sizes + math.sqrt(_num_terms(func, args)) * result.abs()


def _num_terms(func: Any, args: Sequence[Any]) -> int:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if "conv" in func.overloadpacket.__name__:
        return max(1, tensors[1].numel() // max(1, tensors[1].shape[0]))
    left = tensors[1] if func.overloadpacket.__name__ in ("addmm", "baddbmm", "addmv") else tensors[0]
    return max(1, left.shape[-1])


def _of_mean(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Tensor:
    sizes: Tensor = func(args[0].abs(), *args[1:], **kwargs)
    return 2 * sizes + math.sqrt(max(1, args[0].numel() // max(1, result.numel()))) * result.abs()


def _of_batch_norm(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Tensor:
    scale, bias, mean = (None if arg is None else arg.abs() for arg in args[1:4])
    sizes = func(args[0].abs(), scale, bias, None if mean is None else -mean, *args[4:], **kwargs)
    first: Tensor = sizes[0] if isinstance(sizes, (tuple, list)) else sizes
    return first.abs()


def _of_normalization(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Tensor:
    return torch.full_like(result, 4 * float(result.abs().max())) if result.numel() else result


# fmt: off
_PRODUCTS = (
    "addbmm", "addmm", "addmv", "baddbmm", "bmm", "conv2d", "convolution", "dot", "einsum", "linear", "matmul", "mm",
    "mv", "_convolution",
)
_MEANS = ("adaptive_avg_pool2d", "avg_pool2d", "mean", "sum", "_adaptive_avg_pool2d")
_BATCH_NORMS = ("_native_batch_norm_legit_no_training", "batch_norm", "native_batch_norm", "cudnn_batch_norm")
_NORMALIZATIONS = (
    "native_layer_norm", "layer_norm", "native_group_norm", "group_norm", "softmax", "_softmax", "log_softmax",
    "_log_softmax", "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "linalg_vector_norm",
)
# fmt: on
_ERRORS: Mapping[str, Error] = {
    **dict.fromkeys(_PRODUCTS, _of_products),
    **dict.fromkeys(_MEANS, _of_mean),
    **dict.fromkeys(_BATCH_NORMS, _of_batch_norm),
    **dict.fromkeys(_NORMALIZATIONS, _of_normalization),
}
