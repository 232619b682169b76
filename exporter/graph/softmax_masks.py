"""Masks of attention: constants of a large negative number that take places out of a Softmax.

What a Softmax reads at -1e9 it gives 0 for, and for -1e4 just so, as long as the largest value of a row is not near
that. FP16 ends at -65504, and a score that is added there may overflow; so FP16 gets -1e4 for whatever is below it.

Source: Microsoft's converter to FP16 clips every constant to 1e4, ONNX Runtime's to 65504 (`max_finite_val` of
`onnxconverter_common.float16` and `onnxruntime.transformers.float16`); here only those that a Softmax alone reads are.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, TensorProto

from exporter.graph.onnx_graph import GraphIndex, Use, array_from_initializer, index_graph, initializer_from_array

LEAST_MASK = -1e4
"""Of a mask in FP16: exp(-1e4) is 0, and two of them with a score are still finite."""

_MASKED_BY = {"Add": (0, 1), "Where": (1, 2)}
"""Operators to the inputs by which they mask."""


def clip_softmax_masks(graph: GraphProto, largest: float) -> dict[str, float]:
    """Raise what lies below `LEAST_MASK` in masks that hold less than -`largest`, in place; return names and values."""
    index = index_graph(graph)
    found = {}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = array_from_initializer(tensor)
        least = float(values.min(initial=0.0))
        if least < -largest and values.max() <= -LEAST_MASK and _is_mask(tensor.name, index):
            found[tensor.name] = least
            tensor.CopyFrom(initializer_from_array(tensor.name, np.maximum(values, np.float32(LEAST_MASK))))
    return found


def _is_mask(name: str, index: GraphIndex) -> bool:
    """Tell whether nothing but Softmaxes reads a constant, through the operators that mask."""
    uses = index.uses.get(name, ())
    return bool(uses) and name not in index.outputs and all(_masks(use, index) for use in uses)


def _masks(use: Use, index: GraphIndex) -> bool:
    if use.node.op_type == "Softmax":
        return True
    return use.place in _MASKED_BY.get(use.node.op_type, ()) and _is_mask(use.node.output[0], index)
