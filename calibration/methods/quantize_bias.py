"""INT32 biases, and the weight scales that make room for them.

An integer layer adds its bias to the sum of products, so the bias has the scale of these:

    bias_scale[c] = input_scale * weight_scale[c],   q[c] = round_half_even(bias[c] / bias_scale[c])

Where the weights of a channel are tiny beside its bias (a channel that training has switched off) q leaves INT32. The
weight scale of that channel is then widened until it fits: a bias that is 2**30 steps is thousands of times what the
weights can add, so the weights lose bits that nobody sees. An all-zero channel gets its scale from the bias alone.

Source: ONNX Runtime, quantization/onnx_quantizer.py, `_adjust_weight_scale_for_int32_bias` (the widening; there only
up to INT32's end, which leaves no room for the sum).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.methods.quantize_weight import MIN_SCALE

BIAS_QMAX = 2**30
"""Largest |q| of a bias. The other half of INT32 is room for the sum of products: 2**30 / (255 * 127) = 33 156
products, where ResNet's largest layers have 4608 (512 channels, 3x3)."""


def least_weight_scale(bias: NDArray[Any], input_scale: float) -> NDArray[np.float64]:
    """Return the least weight scale with which a bias fits, float64 [C].

    Args:
        bias: float32 [C].
        input_scale: Scale of the layer's input, > 0.

    Returns:
        Per channel the scale at which |q| is `BIAS_QMAX`, and at least what keeps the product of both scales a normal
        float32.

    Raises:
        CalibrationError: If the bias holds NaN or Inf.
    """
    if not np.isfinite(bias).all():
        raise CalibrationError("a bias to quantize holds NaN or Inf")
    least: NDArray[np.float64] = np.maximum(np.abs(bias.astype(np.float64)) / BIAS_QMAX, MIN_SCALE) / input_scale
    return least


def bias_scale(input_scale: float, weight_scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale of the bias as the file stores it, float32 [C]."""
    scale: NDArray[np.float32] = np.float32(input_scale) * weight_scale
    return scale


def quantize_bias(bias: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the bias in steps of `scale`, int32 [C].

    Args:
        bias: float32 [C].
        scale: float32 [C], > 0, from `bias_scale`.

    Raises:
        CalibrationError: If a step count leaves INT32; use `least_weight_scale` for the weights.
    """
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limits = np.iinfo(np.int32)
    if not ((steps >= limits.min) & (steps <= limits.max)).all():
        channel = int(np.argmax(np.abs(steps)))
        raise CalibrationError(
            f"a bias of {bias[channel]} at scale {scale[channel]} is {steps[channel]:.3g} steps, beyond INT32; widen "
            "the weight's scale with least_weight_scale()"
        )
    return steps.astype(np.int32)
