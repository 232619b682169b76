"""The placement of a dialect."""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto

from calibration.methods.dialect import Dialect
from calibration.placement.for_onnxruntime import place_for_onnxruntime
from calibration.placement.for_tensorrt import Placement, place_qdq


def place(model: ModelProto, dialect: Dialect, keep_float: Collection[str] = ()) -> Placement:
    """Return where Q/DQ goes in a folded float model, the nodes of `keep_float` left as they are.

    Raises:
        PlacementError: If two nodes share a name or a node has none, or no node has a name of `keep_float`.
    """
    by_rules = place_for_onnxruntime if dialect is Dialect.ONNXRUNTIME else place_qdq
    return by_rules(model, keep_float)
