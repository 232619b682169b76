"""How much is done for INT8 accuracy. What each step does: calibration.pipeline; what it gains: docs/int8.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from calibration.methods.dialect import ZeroPoints


@dataclass(frozen=True, slots=True)
class Effort:
    """The steps beside choosing ranges.

    Attributes:
        equalize: Scale channels so that all of them use the range (calibration.refinement.cross_layer_equalization).
        correct_biases: Give every channel of a layer the mean it has in float (calibration.refinement.bias_correction).
        round_weights: Round weights for the layer's output, and let them make up for the error in what the layer reads
            (calibration.refinement.round_layer).
        zero_points: What takes the zero points of activations in TensorRT's dialect
            (calibration.placement.offset_tensors). Nothing for a DLA, whose ranges are symmetric.
        thorough: Round layers of any width too, where that helps on images that refinement has not seen.
    """

    equalize: bool
    correct_biases: bool
    round_weights: bool
    zero_points: ZeroPoints
    thorough: bool = False


EFFORTS: Mapping[int, Effort] = {
    0: Effort(False, False, False, ZeroPoints.NONE),
    1: Effort(True, True, True, ZeroPoints.BIASES),
    2: Effort(True, True, True, ZeroPoints.PADS, thorough=True),
}
"""The command line's numbers."""

DEFAULT_EFFORT = 1
"""Default effort; costs a few more looks at a few images."""


def steps_of(effort: int, zero_points: str | None = None, *, dla: bool = False) -> Effort:
    """Return the steps that the command's words ask for.

    Args:
        effort: A key of `EFFORTS`.
        zero_points: A value of `ZeroPoints`; None leaves it to the effort.
        dla: Whether the file is for a DLA too.

    Raises:
        ValueError: Saying which word is none, and what was expected.
    """
    kinds = [kind.value for kind in ZeroPoints]
    for name, got, known in (("effort", effort, EFFORTS), ("zero_points", zero_points, [None, *kinds])):
        if got not in known:
            raise ValueError(f"{name}: got {got!r}, expected one of {', '.join(map(str, known))}")
    if dla:
        return replace(EFFORTS[effort], zero_points=ZeroPoints.NONE)
    return EFFORTS[effort] if zero_points is None else replace(EFFORTS[effort], zero_points=ZeroPoints(zero_points))
