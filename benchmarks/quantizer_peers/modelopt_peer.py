"""NVIDIA ModelOpt's ONNX quantizer, on the CPU."""

from __future__ import annotations

from pathlib import Path

from measured import CalibrationImages, main
from modelopt.onnx.quantization import quantize as modelopt_quantize


def quantize(model: Path, images: CalibrationImages, output: Path, method: str) -> None:
    """Write the Q/DQ file; what is not INT8 stays FP32, so that the error is that of INT8 alone.

    Args:
        model: FP32 file.
        images: Calibration images; ModelOpt takes them as one array and runs them one at a time.
        output: The file to write.
        method: "max" or "entropy".
    """
    modelopt_quantize(
        str(model),
        quantize_mode="int8",
        calibration_data=images.mapped(),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(output),
    )


if __name__ == "__main__":
    main(quantize, ("nvidia-modelopt", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "numpy"))
