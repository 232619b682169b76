"""OpenVINO's Core, of which a process needs one, and the properties that keep a file's numbers.

- `INFERENCE_PRECISION_HINT` f32: with AMX, OpenVINO otherwise computes float32 layers in BF16, 8 bits of mantissa.
- `DYNAMIC_QUANTIZATION_GROUP_SIZE` 0: otherwise the float input of a MatMul with INT8 weights is rounded to INT8 in
  blocks, and what stands beside a large value is lost (findings/openvino_weight_only_quantizes_inputs.sh).
- `LP_TRANSFORMS_MODE` NO: without VNNI, OpenVINO's INT8 kernels add two products in 16 bits and saturate, in both
  dialects, and there is no exact variant of them. Switched off, INT8 is computed as written, in float32: right and no
  faster than FP32. So are networks whose levels they misread (`runtimes.openvino.misread_levels`).

Source: OpenVINO 2026.4, intel_cpu/src/config.cpp; measured under emulation of a CPU without VNNI (15.9 dB of 35.1 on
the demo's network), tests/runtimes/openvino/test_saturation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from runtimes.needed_library import needed_library
from runtimes.ort.int8_kernels import why_int8_saturates

PRECISION = "INFERENCE_PRECISION_HINT"
INT8_KERNELS = "LP_TRANSFORMS_MODE"
_BLOCK_OF_INPUTS = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


@lru_cache(maxsize=1)
def load_core() -> Any:
    """Return the process's `openvino.Core`.

    Raises:
        MissingDependencyError: If OpenVINO is not installed, or does not load.
    """
    told = 'OpenVINO is needed for provider="openvino" ({err}); pip install "resnet-export[openvino]"'
    return needed_library("openvino", told).Core()


def properties_for(*, num_threads: int, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties of a compilation: `num_threads` (0: OpenVINO's choice) and the caller's, which win."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", PRECISION: "f32", _BLOCK_OF_INPUTS: 0}
    if num_threads:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    if why_int8_saturates():
        properties[INT8_KERNELS] = False
    return {**properties, **given}
