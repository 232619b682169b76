"""AMD Quark's ONNX quantizer, on the CPU: signed symmetric activations, weights per channel, float biases.

Ranges by mean squared error are not among the rows: `CalibMethod.MinMSE` makes every scale of an activation a power of
two, also where `ScaleType.Float32` is asked for (findings/quark_minmse_power_of_two.sh). Bias correction edits INT32
biases only, so that with it the file is ONNX Runtime's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measured import CalibrationImages, input_name, main
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import AdaQuantConfig, AdaRoundConfig, BiasCorrectionConfig, CLEConfig, ModelQuantizer, QConfig
from quark.onnx.quantization.config.spec import CalibMethod, Int8Spec, QLayerConfig, QuantGranularity

STEPS = {
    "cle": lambda: CLEConfig(),
    "bias_correction": lambda: BiasCorrectionConfig(),
}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """The images, one batch at a time, as often as Quark asks for them."""

    def __init__(self, name: str, images: CalibrationImages) -> None:
        self.name = name
        self.images = images
        self.reset_iter()

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self.name: batch}

    def reset_iter(self) -> None:
        """Begin again; Quark reads the images once to calibrate and once for each algorithm."""
        self._batches = self.images.batches(1)


def quantize(
    model: Path,
    images: CalibrationImages,
    output: Path,
    *,
    method: str = "Percentile",
    steps: tuple[str, ...] = (),
    adaround_iterations: int = 0,
    adaquant_iterations: int = 0,
) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images, all of them, one at a time.
        output: The file to write.
        method: How ranges are chosen: "MinMax", "Percentile" (Quark's default) or "LayerwisePercentile".
        steps: Of `STEPS`.
        adaround_iterations: Steps per layer of AdaRound; 0 leaves it out. Quark's default is 1000.
        adaquant_iterations: Likewise of AdaQuant.
    """
    algorithms: list[Any] = [STEPS[step]() for step in steps]
    integer_biases = "bias_correction" in steps
    shared = {"data_size": len(images), "batch_size": 2, "num_batches": 1}
    if adaround_iterations:
        algorithms.append(AdaRoundConfig(num_iterations=adaround_iterations, learning_rate=0.1, **shared))
    if adaquant_iterations:
        algorithms.append(AdaQuantConfig(num_iterations=adaquant_iterations, learning_rate=1e-5, **shared))
    layer = QLayerConfig(
        activation=Int8Spec(calibration_method=CalibMethod[method]),
        weight=Int8Spec(calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Channel),
    )
    config = QConfig(
        layer,
        algo_config=algorithms,
        ActivationSymmetric=True,
        WeightSymmetric=True,
        QuantizeBias=integer_biases,
        Int32Bias=integer_biases,
    )
    ModelQuantizer(config).quantize_model(str(model), str(output), Reader(input_name(model), images))


if __name__ == "__main__":
    main(quantize, ("amd-quark", "onnxruntime", "onnx", "torch", "numpy"))
