"""The operations that have weights: one set for every pass, placement and rule."""

from __future__ import annotations

WEIGHTED_OPS = frozenset(("Conv", "Gemm", "MatMul"))
"""Those whose weights are folded into, scaled, rounded and quantized."""

ALL_WEIGHTED_OPS = WEIGHTED_OPS | {"ConvTranspose"}
"""And the transposed convolution, which quantizes as they do."""
