"""onnxruntime.quantization, static: the dialect that TensorRT takes, and its own default for x86-64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from measured import CalibrationImages, input_name, main
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static


class Reader(CalibrationDataReader):
    """The images as ONNX Runtime asks for them."""

    def __init__(self, name: str, batches: Iterator[np.ndarray]) -> None:
        self.name = name
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def quantize(
    model: Path, images: CalibrationImages, output: Path, method: str, percentile: float | None = None, *, dialect: str
) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images.
        output: The file to write.
        method: "MinMax", "Entropy" or "Percentile".
        percentile: Of "Percentile", in percent; None takes ONNX Runtime's default.
        dialect: "tensorrt" or "default".
    """
    settings = tensorrt_settings(model) if dialect == "tensorrt" else default_settings()
    if percentile is not None:
        settings["extra_options"]["CalibPercentile"] = percentile
    quantize_static(
        str(model),
        str(output),
        Reader(input_name(model), images.batches()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        **settings,
    )


def tensorrt_settings(model: Path) -> dict[str, Any]:
    """Return the options that give signed symmetric activations, float bias and no Q/DQ behind Conv.

    Source: ONNX Runtime's documentation of `extra_options`; the same choice as NVIDIA ModelOpt's.
    """
    op_types = sorted({node.op_type for node in onnx.load(model).graph.node})
    return {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": ["Conv", "Gemm", "Add"],
        "extra_options": {
            "QuantizeBias": False,
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": op_types,
        },
    }


def default_settings() -> dict[str, Any]:
    """Return ONNX Runtime's recommendation for x86-64: UINT8 activations, INT8 weights, everything it can fuse.

    Source: onnxruntime.ai, "Quantize ONNX models", U8S8 as first choice on CPU.
    """
    return {"activation_type": QuantType.QUInt8, "extra_options": {}}


if __name__ == "__main__":
    main(quantize, ("onnxruntime", "onnx", "numpy"))
