"""Symmetric INT8 weights, one scale per output channel.

    scale[c] = amax[c] / 127,   q = clip(round_half_even(w / scale[c]), -127, 127)

Source: NVIDIA TensorRT documentation, "Quantization": symmetric, weights in [-127, 127]; ONNX QuantizeLinear-13
(round half to even).

Kernels for x86 without VNNI add two products of UINT8 and INT8 in 16 bits and saturate: 2 * 255 * 127 = 64 770, above
32 767. With weights of 7 bits they cannot: 2 * 255 * 63 = 32 130.

Source: Intel oneDNN, "Nuances of int8 computations".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

MIN_SCALE = float(np.finfo(np.float32).tiny)
"""Smallest normal float32. A channel whose scale would be smaller is zero to any engine and is stored as zeros."""

QMAX = 127
"""Largest level of symmetric INT8; -128 is not used, so that the range is the same on both sides."""

QMAX_7_BITS = 63
"""Largest level with which two products with UINT8 fit into 16 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedArray:
    """An INT8 array and its scales.

    Attributes:
        values: int8, the shape of the weight.
        scale: float32 [C], one per channel of `axis`, > 0.
        axis: The channel axis.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int


def quantize_weight(
    weight: NDArray[Any], *, axis: int, least_scale: NDArray[np.float64] | None = None, qmax: int = QMAX
) -> QuantizedArray:
    """Quantize a weight per channel along `axis`.

    Args:
        weight: float32, Conv [O, I/groups, kH, kW] or Gemm [O, I] / [I, O].
        axis: The output-channel axis.
        least_scale: float64 [C], what no scale may be below, where something else than the weight needs room.
        qmax: Largest level, `QMAX` or `QMAX_7_BITS`.

    Returns:
        Values, scales and axis. A channel of zeros gets scale 1, TensorRT takes no scale of 0, or its least scale.

    Raises:
        CalibrationError: If the weight holds NaN or Inf.
    """
    if not np.isfinite(weight).all():
        raise CalibrationError("a weight to quantize holds NaN or Inf")
    others = tuple(place for place in range(weight.ndim) if place != axis)
    amax = np.abs(weight).max(axis=others).astype(np.float64)
    scale = (amax / qmax).astype(np.float32)
    dead = scale < MIN_SCALE
    scale[dead] = 1.0
    if least_scale is not None:
        floor = least_scale.astype(np.float32)
        scale = np.where(dead & (floor >= MIN_SCALE), floor, np.maximum(scale, floor))
    levels = np.rint(weight / np.expand_dims(scale, others))
    return QuantizedArray(np.clip(levels, -qmax, qmax).astype(np.int8), scale, axis)


def widen_scales(weight: QuantizedArray, least_scale: NDArray[np.float64]) -> QuantizedArray:
    """Return a quantized weight with no scale below `least_scale`; channels that are wide enough keep their levels.

    Args:
        weight: INT8 values and scales.
        least_scale: float64 [C], as for `quantize_weight`; 0 where a channel need not change.
    """
    others = tuple(place for place in range(weight.values.ndim) if place != weight.axis)
    floor = least_scale.astype(np.float32)
    dead = ~weight.values.any(axis=others) & (floor >= MIN_SCALE)
    scale = np.where(dead, floor, np.maximum(weight.scale, floor))
    levels = np.rint(weight.values * np.expand_dims(weight.scale / scale, others))
    levels = np.where(np.expand_dims(scale == weight.scale, others), weight.values, levels)
    return QuantizedArray(levels.astype(np.int8), scale, weight.axis)
