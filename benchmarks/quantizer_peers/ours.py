"""resnet-export, from the FP32 file to the INT8 file, by its Python interface."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

# The packages of this checkout, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnx
from measured import CalibrationImages, main

from calibration import Dialect, quantize
from calibration.methods.effort import steps_of
from calibration.methods.method import method_from_name
from runtimes import OrtRuntime


def write_quantized(
    model: Path,
    images: CalibrationImages,
    output: Path,
    *,
    method: str = "mse",
    equalize: bool = False,
    correct_biases: bool = False,
    round_weights: bool = False,
    zero_points: str | None = None,
    dialect: str = "tensorrt",
    float_weights: bool = False,
    effort: int | None = None,
) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images.
        output: The file to write.
        method: Word of `--method`.
        equalize: See `calibration.methods.effort.Effort`, as for the next two.
        correct_biases: Likewise.
        round_weights: Likewise.
        zero_points: Word of `--zero-points`.
        dialect: Value of a `calibration.Dialect`.
        float_weights: Put the float weights back: what INT8 activations cost alone.
        effort: Number of `--effort`; where given, `equalize`, `correct_biases` and `round_weights` are not read.
    """
    loaded = onnx.load(model)
    steps = steps_of(effort or 0, zero_points)
    if effort is None:
        steps = replace(steps, equalize=equalize, correct_biases=correct_biases, round_weights=round_weights)
    result = quantize(
        loaded,
        images.batches(),
        open_runtime=OrtRuntime,
        open_exact=partial(OrtRuntime, exact_qdq=True),
        method=method_from_name(method),
        dialect=Dialect(dialect),
        effort=steps,
    )
    quantized = result.quantized.model
    if float_weights:
        _restore_weights(quantized, loaded, [weight.name for weight in result.quantized.placement.weights])
    onnx.save_model(quantized, output)


def _restore_weights(quantized: onnx.ModelProto, reference: onnx.ModelProto, names: list[str]) -> None:
    """Let every layer read its float weight again, in place."""
    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    for name in names:
        kept = quantized.graph.initializer.add()
        kept.CopyFrom(weights[name])
        kept.name = f"{name}.float"
        for node in quantized.graph.node:
            for place, read in enumerate(node.input):
                if read == f"{name}.dequantized":
                    node.input[place] = kept.name


if __name__ == "__main__":
    main(write_quantized, ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy"))
