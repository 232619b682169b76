"""How much is done for INT8 accuracy. What each step does: calibration.pipeline; what it gains: docs/int8.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Effort:
    """The steps beside choosing ranges.

    Attributes:
        equalize: Scale channels so that all of them use the range (calibration.refinement.cross_layer_equalization).
        correct_biases: Give every channel of a layer the mean it has in float (calibration.refinement.bias_correction).
        round_weights: Round weights for the layer's output, and let them make up for the error in what the layer reads
            (calibration.refinement.round_layer).
        zero_points: Let activations have zero points in TensorRT's dialect, taken by biases
            (calibration.placement.offset_tensors). False for a DLA, whose ranges are symmetric.
        thorough: Round layers of any width too, where that helps on images that refinement has not seen.
    """

    equalize: bool
    correct_biases: bool
    round_weights: bool
    zero_points: bool
    thorough: bool = False


EFFORTS: Mapping[int, Effort] = MappingProxyType(
    {
        0: Effort(False, False, False, False),
        1: Effort(True, True, True, True),
        2: Effort(True, True, True, True, thorough=True),
    }
)
"""The command line's numbers."""

DEFAULT_EFFORT = 1
"""Default effort; costs a few more looks at a few images."""
