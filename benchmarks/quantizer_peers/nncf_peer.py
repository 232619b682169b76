"""OpenVINO's NNCF on an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import onnx
from measured import CalibrationImages, input_name, main
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix


def quantize(
    model: Path,
    images: CalibrationImages,
    output: Path,
    *,
    fast_bias_correction: bool = True,
    preset: str = "performance",
    full_weights: bool = False,
) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images, all of them, one at a time: NNCF's statistics are meant for batches of one.
        output: The file to write.
        fast_bias_correction: NNCF's default; False is its slower, more accurate form.
        preset: "performance", NNCF's default (symmetric activations, unsigned where they are never negative), or
            "mixed" (asymmetric ones). Signed ones, as TensorRT takes them, it cannot give: findings/nncf_signed.sh.
        full_weights: All 8 bits for the first layer's weights too; by default NNCF gives them 7, so that kernels of
            CPUs without VNNI do not saturate.
    """
    name = input_name(model)
    advanced: dict[str, Any] = {}
    if full_weights:
        advanced["overflow_fix"] = OverflowFix.DISABLE
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(Batches(images), lambda batch: {name: batch}),
        subset_size=len(images),
        preset=nncf.QuantizationPreset(preset),
        fast_bias_correction=fast_bias_correction,
        advanced_parameters=AdvancedQuantizationParameters(**advanced),
    )
    onnx.save_model(quantized, output)


class Batches:
    """The images as an iterable that can be read more than once."""

    def __init__(self, images: CalibrationImages) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return self.images.batches(1)

    def __len__(self) -> int:
        return len(self.images)


if __name__ == "__main__":
    main(quantize, ("nncf", "onnxruntime", "onnx", "numpy"))
