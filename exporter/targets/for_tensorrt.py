"""TensorRT on a desktop or server, and of each JetPack.

Opset limits: TensorRT 8.5/8.6 read <= 17, 10.0-10.3 <= 20, 10.13 <= 24. 20 is the newest that torch.onnx.export writes
by default and that this project verifies. Source: onnx-tensorrt docs/operators.md at those releases.
"""

from __future__ import annotations

from exporter.target import Target

TENSORRT = Target(
    "tensorrt",
    20,
    20,
    "TensorRT 10.0 or newer, 11 included, and TensorRT-RTX",
    newest_read=26,  # parsed and built, 2026-11-29
    newest_reader="TensorRT-RTX 1.7",
)
JETPACK5 = Target("jetpack5", 17, 17, "TensorRT 8.5 (JetPack 5), also 8.6 (JetPack 6.0)", is_tensorrt_8=True)
JETPACK6 = Target("jetpack6", 19, 20, "TensorRT 10.3 (JetPack 6.1 and 6.2)")
JETPACK7 = Target(
    "jetpack7",
    20,
    20,
    "TensorRT 10.13 and newer (JetPack 7)",
    has_dla=False,
    newest_read=24,
    newest_reader="TensorRT 10.13",
)
