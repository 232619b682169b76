"""All files of a random network (`random_networks`), judged in plain sessions (`plain_sessions`)."""

from __future__ import annotations

import numpy as np
from block_models import loaded
from plain_sessions import answered, files_of
from random_networks import SIZE, images, random_network

from exporter.tracing.export import ExportConfig, export_loaded
from runtimes.pytorch import TorchRuntime

LEAST_DB = {"fp32": 90.0, "fp16": 40.0}
INT8_LEAST_DB = 12.0
"""Below this a file as written says something else than PyTorch: random weights, 16 calibration images."""


def disagreements(seed: int, *, calibration: int = 16, tested: int = 32) -> list[str]:
    """Export network `seed` as FP32, FP16 and INT8 in both dialects; return what disagrees, a sentence each.

    Args:
        seed: Of the network.
        calibration: Number of images to calibrate on.
        tested: Number of images to compare on.
    """
    module = random_network(seed)
    exported = export_loaded(loaded(module, size=SIZE), ExportConfig())
    held_out = images(tested, seed=2)
    with TorchRuntime(module) as torch_runtime:
        (reference,) = torch_runtime.run({"input": held_out}).values()
    files = {name: make() for name, make in files_of(exported.onnx, images(calibration, seed=1))}
    found = []
    for one in answered(files, reference.astype(np.float64), held_out):
        if one.written_db < LEAST_DB.get(one.file, INT8_LEAST_DB):
            found.append(f"network {seed}, {one.file}: as written {one.written_db:.1f} dB from PyTorch")
        if not one.agrees:
            found.append(
                f"network {seed}, {one.file}: {one.plain_db:.1f} dB in a plain session, {one.written_db:.1f} as written"
            )
    return found
