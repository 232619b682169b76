"""From images to INT8: ranges of activations, and Q/DQ as TensorRT or ONNX Runtime wants it.

    quantize     model + images -> Q/DQ model with INT8 weights, all steps in one
    calibrate    model + images -> CalibrationTable (tensor name -> amax and scale), the first step alone
    insert_qdq   model + table  -> Q/DQ model with INT8 weights
    Dialect      who the file is for;  EFFORTS  how much is done for accuracy;  ZeroPoints  who takes them
    Max, Percentile, Entropy, MeanSquaredError   the ways from histogram to amax

Calibration is given a runtime; it never picks one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.methods.builtin_methods import Entropy, Max, MeanSquaredError, Percentile
from calibration.methods.dialect import Dialect, ZeroPoints
from calibration.methods.effort import EFFORTS, Effort
from calibration.ranges.calibration_table import CalibrationTable
from runtimes.lazy_names import lazy_names

if TYPE_CHECKING:
    from calibration.pipeline.quantize_model import quantize
    from calibration.qdq.insert_qdq import insert_qdq
    from calibration.ranges.collect_ranges import calibrate

__all__ = [
    "EFFORTS",
    "CalibrationTable",
    "Dialect",
    "Effort",
    "Entropy",
    "Max",
    "MeanSquaredError",
    "Percentile",
    "ZeroPoints",
    "calibrate",
    "insert_qdq",
    "quantize",
]

__getattr__ = lazy_names(  # what edits ONNX graphs, and with it onnx
    __name__,
    {
        "calibration.pipeline.quantize_model": ("quantize",),
        "calibration.qdq.insert_qdq": ("insert_qdq",),
        "calibration.ranges.collect_ranges": ("calibrate",),
    },
)
