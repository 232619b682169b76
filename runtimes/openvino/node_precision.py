"""Read the type that each node of a compiled model really computes in, as OpenVINO tells after compiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WEIGHTED = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution"})
"""Layers that hold nearly all of the work."""

INTEGERS = frozenset({"u8", "i8"})
_NO_WORK = frozenset({"Const", "Input", "Output", "Parameter", "Result", "Reshape"})


def node_precisions(compiled: Any) -> dict[str, str]:
    """Return node name to "LAYER in PRECISION", such as "Convolution in u8", of the nodes that compute."""
    found: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        layer = facts["layerType"].astype(str)
        if layer not in _NO_WORK:
            precision = _precision(node, layer, facts["runtimePrecision"].astype(str))
            found[node.get_friendly_name()] = f"{layer} in {precision}"
    return found


def _precision(node: Any, layer: str, told: str) -> str:
    """Return what a node computes in; OpenVINO calls a float layer whose weights it unpacks from INT8 "i8" too."""
    if layer in WEIGHTED and told in INTEGERS and node.input(0).get_element_type().is_real():
        return "f32, weights in i8"
    return told


def integer_layers(precisions: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the weighted layers that compute in integers."""
    wanted = {f"{layer} in {integer}" for layer in WEIGHTED for integer in INTEGERS}
    return tuple(name for name, told in precisions.items() if told in wanted)
