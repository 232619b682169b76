"""The placement of a dialect."""

from __future__ import annotations

from onnx import ModelProto

from calibration.dialect import Dialect
from calibration.onnxruntime_placement import place_for_onnxruntime
from calibration.placement import Placement, place_qdq


def place(model: ModelProto, dialect: Dialect) -> Placement:
    """Return where Q/DQ goes in a folded float model.

    Raises:
        PlacementError: If two nodes share a name or a node has none.
    """
    return place_for_onnxruntime(model) if dialect is Dialect.ONNXRUNTIME else place_qdq(model)
