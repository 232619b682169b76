"""The padding that a plain ONNX Runtime session before 1.32 takes into a pool from a Pad before it.

    MaxPool(Pad(x, 0))      ->  MaxPool(x, pads)       the zeros become minus infinity
    AveragePool(Pad(x, 0))  ->  AveragePool(x, pads)   the same values

A pool must pad less than its window is wide, without its dilation: a wider Pad than that gives a session that does not
open. Source: ONNX Runtime, core/optimizer/pad_fusion.cc; findings/onnxruntime_pad_into_max_pool.sh, which
tests/exporter/graph/test_joined_padding.py asks, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto

from exporter.graph.onnx_graph import GraphIndex, attribute

_PASSED = frozenset({"Identity", "Cast"})
"""What a session looks through between the two: an Identity it removes, a Cast it lets stand."""


@dataclass(frozen=True, slots=True)
class JoinedPadding:
    """What becomes of a pool.

    Attributes:
        source: The tensor that the Pad pads.
        is_too_wide: Whether the pool then pads as much as its window is wide, or more.
    """

    source: str
    is_too_wide: bool


def joined_padding(
    pool: NodeProto, index: GraphIndex, constant: Callable[[str], NDArray[Any] | None]
) -> JoinedPadding | None:
    """Return what a session makes of `pool` and the Pad before it; None where it leaves both alone.

    Args:
        pool: Any node of the graph.
        index: Of its graph.
        constant: Gives a constant's values by its name, None for what is computed or cannot be read.
    """
    if pool.op_type not in ("MaxPool", "AveragePool") or len([name for name in pool.output if name]) > 1:
        return None
    if attribute(pool, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    pad = _only_maker(pool.input[0], index)
    while pad is not None and pad.op_type in _PASSED:
        pad = _only_maker(pad.input[0], index)
    amounts = None if pad is None or pad.op_type != "Pad" else _zeros(pad, constant)
    if pad is None or amounts is None:
        return None
    window = list(attribute(pool, "kernel_shape", ()))
    own = list(attribute(pool, "pads", None) or [0] * 2 * len(window))
    if len(amounts) != len(own) + 4 or len(own) != 2 * len(window):
        return None
    if pool.op_type == "AveragePool" and any(own) and not attribute(pool, "count_include_pad", 0):
        return None
    half = len(amounts) // 2
    sides = [*amounts[2:half], *amounts[half + 2 :]]
    if min(amounts) < 0 or any(amounts[:2]) or any(amounts[half : half + 2]) or not any(sides):
        return None
    total = [given + added for given, added in zip(own, sides, strict=True)]
    return JoinedPadding(pad.input[0], any(side >= wide for side, wide in zip(total, window * 2, strict=True)))


def _only_maker(tensor: str, index: GraphIndex) -> NodeProto | None:
    """Return the node that makes a tensor for one reader; None where others see it, too."""
    is_shared = len(index.uses.get(tensor, ())) != 1 or tensor in index.outputs
    return None if is_shared else index.producer.get(tensor)


def _zeros(pad: NodeProto, constant: Callable[[str], NDArray[Any] | None]) -> Sequence[int] | None:
    """Return how many zeros a Pad puts on each side, beginnings first; None where it is no zeros, or not known."""
    if attribute(pad, "mode", b"constant") != b"constant" or len(pad.input) > 3:
        return None
    if len(pad.input) == 1:  # before opset 11
        return None if attribute(pad, "value", 0.0) else list(attribute(pad, "pads", ()))
    amounts = constant(pad.input[1])
    if len(pad.input) > 2 and pad.input[2]:
        value = constant(pad.input[2])
        if value is None or any(value.tobytes()):  # -0.0 is no zero there
            return None
    return None if amounts is None else [int(amount) for amount in amounts.reshape(-1)]
