"""Networks whose INT8 levels OpenVINO's low-precision kernels misread: they are computed in float32, as written.

OpenVINO moves a DequantizeLinear, (level - zero_point) * scale, behind operators that take integers as well. Two of
them it takes wrongly where there is a zero point:

    AveragePool that counts its padding,     pads with level 0, which is -zero_point * scale and not 0
    or reads a Pad of zeros
    ReduceSum of n values                    multiplies the zero point by n in the constant itself: each other
                                             DequantizeLinear that names the same constant has it, too

A constant that is added to the values on the way becomes part of the zero point and counts as one. What is no line in
levels (an activation, a convolution) ends the way. With `LP_TRANSFORMS_MODE` NO both are computed as written.

Source: seen with OpenVINO 2026.4.1 (findings/openvino_average_pool_pads_level_zero.sh,
findings/openvino_shared_zero_point_of_a_sum.sh).
"""

from __future__ import annotations

from typing import Any

MOVED_BEHIND = frozenset(
    (
        *("AvgPool", "BatchToSpace", "Clamp", "Concat", "DepthToSpace", "Gather", "Interpolate", "MaxPool", "Maximum"),
        *("Minimum", "Multiply", "Pad", "ReduceMean", "Reshape", "ShuffleChannels", "Slice", "SpaceToBatch"),
        *("SpaceToDepth", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"),
    )
)
"""Operators that a dequantization is moved behind, beside sums with a constant."""

_LEVELS = frozenset(("i8", "u8", "i4", "u4"))
_SUMS = frozenset(("Add", "Subtract"))
_FORMS = frozenset(("Convert", "Reshape", "Unsqueeze"))
"""What stands between a zero point and where it is read."""


def why_levels_are_misread(network: Any) -> str | None:
    """Return which operator of an `openvino.Model` would misread its levels, and how; None where none does."""
    for node in network.get_ops():
        kind, told = node.get_type_name(), node.get_friendly_name()
        if kind == "AvgPool" and (padded := _padded_by(node)) is not None and _zero_points(padded):
            return f"its kernels would pad AveragePool ({told}) with level 0 instead of the value 0"
        if kind == "ReduceSum" and any(_times_used(constant) > 1 for constant in _zero_points(_read(node, 0))):
            return f"its kernels would change the zero point before ReduceSum ({told}) for all that share it"
    return None


def _read(node: Any, place: int) -> Any:
    return node.input(place).get_source_output().get_node()


def _padded_by(pool: Any) -> Any | None:
    """Return what makes the values that an average pads and counts: its input, or that of the Pad that it reads."""
    said, source = pool.get_attributes(), _read(pool, 0)
    if any(said["pads_begin"]) or any(said["pads_end"]):
        return None if said["exclude-pad"] else source
    if source.get_type_name() != "Pad" or source.get_attributes()["pad_mode"] != "constant":
        return None
    value = _constant(_read(source, 3)) if source.get_input_size() > 3 else None
    return None if value is not None and value.get_data().any() else _read(source, 0)


def _zero_points(node: Any) -> list[Any]:
    """Return the constants other than 0 that are added to or taken from levels on the way to a node's output."""
    found: list[Any] = []
    seen: set[str] = set()

    def reaches_levels(node: Any) -> bool:
        kind, name = node.get_type_name(), node.get_name()
        if name in seen:
            return False
        seen.add(name)
        if kind == "Convert":
            return node.get_input_element_type(0).get_type_name() in _LEVELS
        if kind not in MOVED_BEHIND and kind not in _SUMS:
            return False
        inputs = [_read(node, place) for place in range(node.get_input_size())]
        constants = [constant for constant in map(_constant, inputs) if constant is not None] if kind in _SUMS else []
        if kind in _SUMS and not constants:  # of two tensors
            return False
        reached = [reaches_levels(each) for each in inputs]
        if any(reached):
            found.extend(constant for constant in constants if constant.get_data().any())
        return any(reached)

    return found if reaches_levels(node) else []


def _constant(node: Any) -> Any | None:
    """Return the constant that a node is, or gives another type or shape."""
    while node.get_type_name() in _FORMS:
        node = _read(node, 0)
    return node if node.get_type_name() == "Constant" else None


def _times_used(constant: Any) -> int:
    return len(constant.output(0).get_target_inputs())
