"""Operators of an ONNX file that OpenVINO computes otherwise than the standard says: such a file is not run by it.

    ReduceL1, ReduceLogSum,   of opset 13 to 17: their attribute `axes` is not read, and they reduce over all axes, the
    ReduceLogSumExp           batch among them
    Softmax                   before opset 13: over one axis alone, where the standard means all axes from it on
    LRN                       its bias is cut to a whole number
    Resize                    `antialias` and `exclude_outside` are not heard
    AveragePool               that counts its padding and rounds its size up (ceil_mode): a window that reaches beyond
                              the padding is divided by its full size, not by what of it lies within

OpenVINO says nothing of it, and its own graph no longer tells the file's opset. So the few fields are read from the
file (`runtimes.io.protobuf`).

Source: onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto);
seen with OpenVINO 2026.4.1 (findings/openvino_reduction_over_all_axes.sh, findings/openvino_softmax_before_13.sh,
findings/openvino_lrn_bias.sh, findings/openvino_resize_antialias.sh, findings/average_pool_ceil_divisor.sh).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtimes.io.protobuf import fields, mapped, text

REDUCTIONS = frozenset(("ReduceL1", "ReduceLogSum", "ReduceLogSumExp"))
AXES_NOT_READ = range(13, 18)
NOT_HEARD = ("antialias", "exclude_outside")
"""Attributes of Resize that change answers elsewhere."""

SOFTMAX_OF_ONE_AXIS = 13
"""The first opset whose Softmax is over one axis, as OpenVINO has it for every opset."""

_STANDARD_DOMAINS = ("", "ai.onnx")
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE = 1
_NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3


def why_misread(model: Path | bytes, network: Any) -> str | None:
    """Return what OpenVINO would compute otherwise, and what to do; None where it reads the file as it is meant.

    Args:
        model: The ONNX file or its bytes; anything else (OpenVINO's own format) gives None.
        network: The `openvino.Model` that was read from it.
    """
    try:
        if isinstance(model, bytes):
            return _why(memoryview(model), network)
        with mapped(model) as view:
            return _why(view, network)
    except (IndexError, ValueError):  # no protobuf: not an ONNX file
        return None


def _why(view: memoryview, network: Any) -> str | None:
    opset, graph = 0, (0, 0)
    for number, value in fields(view, 0, len(view)):
        if number == _MODEL_GRAPH and isinstance(value, tuple):
            graph = value
        elif number == _MODEL_OPSET and isinstance(value, tuple):
            known = dict(fields(view, *value))
            if text(view, known.get(_OPSET_DOMAIN)) in _STANDARD_DOMAINS:
                opset = int(known.get(_OPSET_VERSION, 0))
    if graph == (0, 0) or not opset:
        return None  # no ONNX file
    for kind, output, attributes in _nodes_with_attributes(view, graph):
        if opset in AXES_NOT_READ and kind in REDUCTIONS and "axes" in attributes:
            return (
                f"{kind} ({output}) of opset {opset}: OpenVINO does not read its axes and reduces over all, the batch "
                "too; bring the file to opset 18 or newer, or run it with another provider"
            )
        if kind == "Resize" and (named := [name for name in NOT_HEARD if attributes.get(name)]):
            return f"Resize ({output}) with {named[0]}: OpenVINO resizes without it; run the file with another provider"
    biases = [float(node.get_attributes()["bias"]) for node in network.get_ops() if node.get_type_name() == "LRN"]
    if (bias := next((bias for bias in biases if bias != int(bias)), None)) is not None:
        return f"LRN with the bias {bias:g}: OpenVINO computes with {int(bias)}; run the file with another provider"
    if (pool := _average_beyond_padding(network)) is not None:
        return (
            f"AveragePool ({pool}) with ceil_mode and count_include_pad: OpenVINO divides windows that reach beyond "
            "the padding by their full size; run the file with another provider"
        )
    if opset < SOFTMAX_OF_ONE_AXIS and (axis := _softmax_before_last_axis(network)) is not None:
        return (
            f"Softmax over axis {axis} and all behind it (opset {opset}): OpenVINO takes that axis alone; bring the "
            "file to opset 13 or newer, or run it with another provider"
        )
    return None


def _nodes_with_attributes(view: memoryview, graph: tuple[int, int]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield kind, first output and attributes (0 for what is no whole number) of the nodes that may be misread."""
    for number, node in fields(view, *graph):
        if number != _GRAPH_NODE or not isinstance(node, tuple):
            continue
        found = list(fields(view, *node))
        known = dict(reversed(found))  # of several outputs, the first
        kind = text(view, known.get(_NODE_OP_TYPE))
        if kind not in (*REDUCTIONS, "Resize") or text(view, known.get(_NODE_DOMAIN)) not in _STANDARD_DOMAINS:
            continue
        attributes = [dict(fields(view, *value)) for place, value in found if place == _NODE_ATTRIBUTE]
        named = {
            text(view, attribute.get(_ATTRIBUTE_NAME)): int(attribute.get(_ATTRIBUTE_INT, 0))
            for attribute in attributes
        }
        yield kind, text(view, known.get(_NODE_OUTPUT)), named


def _average_beyond_padding(network: Any) -> str | None:
    """Return the name of the first AveragePool with padding that counts and a window that reaches beyond it."""
    for node in network.get_ops():
        if node.get_type_name() != "AvgPool":
            continue
        pool = node.get_attributes()
        padded = any(pool["pads_begin"]) or any(pool["pads_end"])
        if pool["exclude-pad"] or pool["rounding_type"] == "floor" or not padded:
            continue
        sizes = list(node.get_input_partial_shape(0))[2:]
        places = list(node.get_output_partial_shape(0))[2:]
        if any(_reaches_beyond(pool, axis, size, places[axis]) for axis, size in enumerate(sizes)):
            return str(node.get_friendly_name())
    return None


def _reaches_beyond(pool: dict[str, Any], axis: int, size: Any, places: Any) -> bool:
    if size.is_dynamic or places.is_dynamic:
        return True  # at some size it does
    window = (pool["kernel"][axis] - 1) * pool["dilations"][axis] + 1
    end = (places.get_length() - 1) * pool["strides"][axis] + window
    return bool(end > size.get_length() + pool["pads_begin"][axis] + pool["pads_end"][axis])


def _softmax_before_last_axis(network: Any) -> int | None:
    """Return the axis of the first Softmax behind whose axis a size other than 1 stands."""
    for node in network.get_ops():
        if node.get_type_name() != "Softmax":
            continue
        shape, axis = node.get_output_partial_shape(0), int(node.get_attributes()["axis"])
        if shape.rank.is_dynamic:
            return axis
        behind = list(shape)[axis % len(shape) + 1 :]
        if any(size.is_dynamic or size.get_length() != 1 for size in behind):
            return axis
    return None
