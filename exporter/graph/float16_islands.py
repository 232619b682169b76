"""Which nodes of an FP16 graph must compute in float32, because a small constant of theirs is nothing in FP16.

FP16 ends at 6e-8 below. `x / max(norm, 1e-12)` and `x / sqrt(sum x^2 + 1e-8)` divide by 0 there on a black frame.
Such a constant stays what it is, in an island of float32:

    backward   from the node that reads it through what computes its other operand: sums, squares, roots
    forward    through what is made of it, up to the node that brings other data in (the quotient), which belongs to it

Where the square root or the reciprocal of the small number is what FP16 can hold, casting there would do; but its
square would still be 0, and 1e6 = rsqrt(1e-12) is more than FP16 has. So the whole quotient is computed in float32.
Elements of weights are another thing: a weight of 1e-9 among others is nothing. They become 0 and are counted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto

from exporter.graph.onnx_graph import GraphIndex, array_from_initializer, index_graph

MAX_RELATIVE_LOSS = 0.05
"""A constant that FP16 changes by more is small: 1e-7 becomes 1.2e-7, 1e-6 becomes 1.01e-6.
Source: IEEE 754-2008, binary16; steps of 2^-24 below 2^-14."""

_SENSITIVE = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Pow", "Where", "Sum", "Mod"})
_BEFORE = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMax", "GlobalAveragePool", "Pow"}
    | {"Sqrt", "Abs", "Expand", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Sub", "Neg"}
)
_SHAPES = frozenset({"Expand", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity"})
_AFTER = frozenset(
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Pow", "Sqrt", "Reciprocal", "Log", "Exp", "Abs", "Neg", "Sum"}
    | _SHAPES
)


def lost_in_float16(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell, element by element, which numbers that are not 0 FP16 changes by more than `MAX_RELATIVE_LOSS`."""
    wide = np.abs(values.astype(np.float64))
    with np.errstate(over="ignore"):
        narrow = np.abs(values.astype(np.float16).astype(np.float64))
    lost: NDArray[np.bool_] = np.zeros(wide.shape, bool)
    small = (wide > 0) & (wide < 1.0)  # where nothing is infinite
    lost[small] = np.abs(narrow[small] - wide[small]) > MAX_RELATIVE_LOSS * wide[small]
    return lost


def small_constants(graph: GraphProto) -> dict[str, float]:
    """Return, by name, the constants of one float32 number that FP16 does not hold, and divisors of any size."""
    divisors = {node.input[1] for node in graph.node if node.op_type == "Div" and len(node.input) > 1}
    found = {}
    for tensor in graph.initializer:
        is_one = math.prod(tensor.dims) == 1
        if tensor.data_type != TensorProto.FLOAT or not (is_one or tensor.name in divisors):
            continue
        values = array_from_initializer(tensor)
        lost = lost_in_float16(values)
        if lost.any():
            found[tensor.name] = float(np.abs(values[lost]).min())
    return found


def float32_islands(graph: GraphProto) -> tuple[set[int], dict[str, float]]:
    """Return the places in `graph.node` that must compute in float32, and the constants that ask for it."""
    small = small_constants(graph)
    index = index_graph(graph)
    seeds = {
        place
        for place, node in enumerate(graph.node)
        if node.op_type in _SENSITIVE and any(name in small for name in node.input)
    }
    read = {name for place in seeds for name in graph.node[place].input}
    island: set[int] = set()
    for seed in seeds:
        _grow(seed, graph, index, island)
    return island, {name: value for name, value in small.items() if name in read}


def _grow(seed: int, graph: GraphProto, index: GraphIndex, island: set[int]) -> None:
    """Add a seed, what computes its operands, and what is made of it."""
    forward, open_ends = [seed], set[int]()
    while forward:
        place = forward.pop()
        if place in open_ends:
            continue
        open_ends.add(place)
        island.add(place)
        node = graph.node[place]
        _add_what_computes(node, graph, index, island)
        for use in index.uses.get(node.output[0], ()):
            after = use.node
            if after.op_type not in _AFTER:
                continue
            where = index.position[after.output[0]]
            others = [name for slot, name in enumerate(after.input) if name and slot != use.place]
            if all(name in index.initializer or index.position.get(name) in open_ends for name in others):
                forward.append(where)
            elif after.op_type not in _SHAPES:
                island.add(where)  # the quotient: it brings other data in


def _add_what_computes(node: NodeProto, graph: GraphProto, index: GraphIndex, island: set[int]) -> None:
    waiting = [name for name in node.input if name in index.producer]
    while waiting:
        made = index.producer[waiting.pop()]
        place = index.position[made.output[0]]
        is_square = made.op_type == "Mul" and len(set(made.input)) == 1
        if place in island or not (made.op_type in _BEFORE or is_square):
            continue
        island.add(place)
        waiting += [name for name in made.input if name in index.producer]
