"""From what was seen of a tensor to the levels it gets.

    INT8     scale = amax / 127, zero point 0                                  (TensorRT)
    UINT8    low = max(min, -amax), high = min(max, amax), both widened to hold 0            (asymmetric)
             scale = (high - low) / 255, zero point = round(-low / scale)

A tensor that never goes below 0, as after a ReLU, so has zero point 0 and 255 steps up to amax, twice as many as INT8.
ONNX Runtime takes UINT8 everywhere, TensorRT where biases can take the zero point (`placement.offset_tensors`).

Source: Jacob et al. 2018, arXiv:1712.05877, section 2.1 (scale and zero point, 0 exactly representable).
"""

from __future__ import annotations

import numpy as np

from calibration.methods.amax import MIN_AMAX, Levels
from calibration.methods.histogram import Histogram
from calibration.methods.method import Method, amax
from calibration.methods.quantize_weight import MIN_SCALE, QMAX
from calibration.ranges.calibration_table import TensorRange

NUM_UINT8_STEPS = 255


def activation_range(
    method: Method, histogram: Histogram, min_value: float, max_value: float, *, asymmetric: bool
) -> TensorRange:
    """Return the range of one tensor.

    Args:
        method: How to get from histogram to amax.
        histogram: Counts of |x|.
        min_value: The exact least value seen.
        max_value: The exact largest value seen.
        asymmetric: UINT8 instead of INT8.

    Raises:
        EmptyHistogramError: If the histogram holds no value.
    """
    if asymmetric:
        return _unsigned_range(method, histogram, min_value, max_value)
    kept = amax(method, histogram)
    return TensorRange(amax=kept, scale=float(np.float32(kept / QMAX)), max_abs=histogram.max_abs)


def _unsigned_range(method: Method, histogram: Histogram, min_value: float, max_value: float) -> TensorRange:
    below, above = max(-min_value, 0.0), max(max_value, 0.0)
    kept = amax(method, histogram, Levels(NUM_UINT8_STEPS, other_side=min(below, above)))
    low, high = max(-below, -kept), min(above, kept)
    if high - low < NUM_UINT8_STEPS * MIN_SCALE:  # dead: zero on every image
        low, high = 0.0, MIN_AMAX
    scale = _scale(high - low)
    return TensorRange(
        amax=max(-low, high),
        scale=scale,
        max_abs=histogram.max_abs,
        zero_point=round(-low / (high - low) * NUM_UINT8_STEPS),
        dtype="uint8",
        min_value=min_value,
        max_value=max_value,
    )


def _scale(width: float) -> float:
    """Return the step as a float32, rounded down where rounding up would put the last level above the largest value.

    ONNX Runtime leaves a Clip out only where no level lies beyond its limit, and a ReLU6 reaches its limit exactly.
    """
    scale = np.float32(width / NUM_UINT8_STEPS)
    return float(np.nextafter(scale, np.float32(0)) if float(scale) * NUM_UINT8_STEPS > width else scale)
