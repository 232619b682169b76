"""Qualcomm's AIMET for ONNX: its simulation, calibrated, and exported as standard Q/DQ.

AIMET's default activations are asymmetric, which TensorRT does not take; `symmetric` is the setting that does. Its
default configuration joins a Conv with the ReLU behind it, but never a depthwise one: between that and its ReLU6 stands
a quantizer whose range is the Conv's (191 on EfficientNet-Lite0, so that 8 of 256 levels are left for 0 to 6).
`join` switches these off, as a user may (findings/aimet_depthwise_relu.sh).
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aimet_onnx
import onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from measured import CalibrationImages, input_name, main


def symmetric_configuration() -> dict[str, Any]:
    """Return AIMET's default configuration with symmetric activations."""
    from aimet_onnx.common.quantsim_config import quantsim_config

    default = Path(quantsim_config.__file__).with_name("default_config_per_channel.json")
    configuration: dict[str, Any] = json.loads(default.read_text())
    configuration["defaults"]["ops"]["is_symmetric"] = "True"
    return configuration


def join_rectifiers(sim: aimet_onnx.QuantizationSimModel, model: onnx.ModelProto) -> None:
    """Switch off the quantizers between a layer and the Relu or Clip that alone reads it.

    Args:
        sim: The simulation of `model`.
        model: The float model, as it was before the simulation took it.
    """
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type in ("Conv", "Gemm", "Add") and readers.get(name) in (["Relu"], ["Clip"]):
            sim.qc_quantize_op_dict[name].enabled = False


def quantize(
    model: Path,
    images: CalibrationImages,
    output: Path,
    *,
    scheme: str = "tf_enhanced",
    equalize: bool = False,
    adaround_iterations: int = 0,
    symmetric: bool = False,
    join: bool = False,
) -> None:
    """Write the Q/DQ file.

    Args:
        model: FP32 file.
        images: Calibration images, in batches.
        output: The file to write.
        scheme: AIMET's way to choose ranges: "min_max" or "tf_enhanced".
        equalize: Cross-layer equalization first.
        adaround_iterations: Steps per layer of AdaRound; 0 leaves it out. AIMET recommends 10 000.
        symmetric: Signed symmetric activations instead of the default asymmetric ones.
        join: `join_rectifiers`.
    """
    name = input_name(model)
    loaded = onnx.load(model)
    if equalize:
        equalize_model(loaded)
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {}
        if symmetric:
            config = Path(folder) / "symmetric.json"
            config.write_text(json.dumps(symmetric_configuration()))
            options["config_file"] = str(config)
        float_model = onnx.ModelProto()
        float_model.CopyFrom(loaded)
        sim = aimet_onnx.QuantizationSimModel(loaded, quant_scheme=scheme, **options)
        if join:
            join_rectifiers(sim, float_model)
        if adaround_iterations:
            inputs = [{name: batch} for batch in images.batches()]
            aimet_onnx.apply_adaround(sim, inputs, num_iterations=adaround_iterations)
        sim.compute_encodings({name: batch} for batch in images.batches())
        quantized = sim.to_onnx_qdq(
            prequantize_constants=True, force_activation_as="signed" if symmetric else "unsigned"
        )
    onnx.save_model(quantized, output)


if __name__ == "__main__":
    main(quantize, ("aimet-onnx", "onnxruntime", "onnx", "torch", "numpy"))
