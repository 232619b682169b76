"""The operations that have weights, and those that only move values: one set for every pass, placement and rule."""

from __future__ import annotations

WEIGHTED_OPS = frozenset(("Conv", "Gemm", "MatMul"))
"""Those whose weights are folded into, scaled, rounded and quantized."""

ALL_WEIGHTED_OPS = WEIGHTED_OPS | {"ConvTranspose"}
"""And the transposed convolution, which quantizes as they do."""

MOVING_OPS = frozenset({"MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice"})
"""Operators that only move or choose values: Q and DQ pass through them without a change of the result.
Source: NVIDIA TensorRT documentation, "Explicit quantization", Q/DQ propagation (commuting layers)."""
