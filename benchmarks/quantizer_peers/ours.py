"""resnet-export, from the FP32 file to the INT8 file, by its Python interface."""

from __future__ import annotations

import sys
from pathlib import Path

# The packages of this checkout, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnx
from measured import CalibrationImages, main

from calibration import calibrate, insert_qdq
from calibration.method import method_from_name
from runtimes import OrtRuntime


def quantize(model: Path, images: CalibrationImages, output: Path, *, method: str) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images.
        output: The file to write.
        method: Word of `--method`.
    """
    loaded = onnx.load(model)
    table = calibrate(loaded, images.batches(), open_runtime=OrtRuntime, method=method_from_name(method))
    onnx.save_model(insert_qdq(loaded, table).model, output)


if __name__ == "__main__":
    main(quantize, ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy"))
