"""Type a model FP16, with float32 inputs and outputs, for strongly typed networks (TensorRT 11, TensorRT-RTX).

TensorRT 11 takes precision from the graph alone. So every float32 constant becomes float16, one Cast follows each
float32 graph input and one precedes each float32 graph output; the nodes between keep their order, which is
topological. Rounding is IEEE round-half-to-even (`numpy.ndarray.astype`).

What FP16 cannot hold stays in float32 between two Casts: sums of squares, which over a feature map of 56 x 56 pass
65504, where FP16 ends, at a root mean square of 4.6 already (ConvNeXt V2's global response normalization), and
quotients with a small constant in them (`float16_islands`). So does what ONNX does not define for FP16 (Celu), and
inputs that it defines as float32 whatever the model's type: Resize's scales and, as runtimes read it, its region of
interest. Masks of a Softmax beyond FP16's end are clipped (`softmax_masks`).

ONNX Runtime's own converter (`onnxruntime.transformers.float16`) was not used: it appends its Casts at the end (the
checker then refuses the order) and replaces small weights by a larger number without saying so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.errors import WeightsError
from exporter.graph import onnx_graph
from exporter.graph.float16_islands import float32_islands
from exporter.graph.softmax_masks import LEAST_MASK, clip_softmax_masks

FLOAT16_MAX = 65504.0
"""Largest finite half-precision number. Source: IEEE 754-2008, binary16."""

FLOAT16_MIN_NORMAL = 2.0**-14
"""Least normal half-precision number; below it bits are lost, and below 2**-25 everything. Source: as above."""


_KEPT_FLOAT32 = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"})
_KEPT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs whose type ONNX does not tie to the data's, or that runtimes read as float32 only (Resize's roi)."""

_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")


def float16_from_float32(model: ModelProto) -> onnx_graph.PassResult:
    """Return a copy of a float32 model without Q/DQ nodes, typed FP16 with float32 inputs and outputs.

    Returns:
        The typed copy, type-checked; `num_changes` counts converted constants, `skipped` says what stays in float32
        because of a small constant, and how many values became 0.

    Raises:
        WeightsError: If a constant lies outside half precision; the message names it and its largest value.
        ValueError: If the model already holds Q/DQ nodes.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ValueError("float16_from_float32 takes a model without Q/DQ nodes")
    return typed_float16(model)


def typed_float16(model: ModelProto, *, kept: Collection[str] = ()) -> onnx_graph.PassResult:
    """Do `float16_from_float32` for any model: float32 scales of Q/DQ nodes become FP16 like every other constant.

    Args:
        model: The model.
        kept: Names of nodes that stay float32, with the constants that they read; none of their tensors is one of the
            other nodes' (`exporter.passes.float32_layers`).
    """
    result = onnx_graph.copy_model(model)
    graph = result.graph
    _constants_to_initializers(graph)
    masks = clip_softmax_masks(graph, FLOAT16_MAX)
    kinds = onnx_graph.infer_types(result)
    wide = {name for name, kind in kinds.items() if kind.tensor_type.elem_type == TensorProto.FLOAT}
    wide |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    island, small = float32_islands(graph)
    opset = onnx_graph.opset_of(result)
    island |= {
        place
        for place, node in enumerate(graph.node)
        if node.op_type in _KEPT_FLOAT32 or not _has_float16_form(node, opset, wide)
    }
    apart = {place for place, node in enumerate(graph.node) if node.name in kept}
    island -= apart
    constants = {tensor.name for tensor in graph.initializer}
    notes = _notes(graph, island, small)
    if masks:
        named = ", ".join(f"{name!r} ({value:.2g})" for name, value in masks.items())
        notes.append(f"masks of a Softmax that FP16 does not hold are {LEAST_MASK:g} there: {named}")
    reads = {
        (place, slot)
        for place, node in enumerate(graph.node)
        for slot, name in enumerate(node.input)
        if name in wide
        and (place in island or slot in _float32_inputs(node, opset) or (place in apart and name in constants))
    }
    num_changes, num_zeros = _convert_constants(graph, reads)
    for place, node in enumerate(graph.node):
        if place not in island | apart:
            _write_float16(node)
    casts = _island_casts(graph, island, reads, wide)
    pieces = [piece for place, node in enumerate(graph.node) for piece in (*casts[place][0], node, *casts[place][1])]
    onnx_graph.replace_nodes(graph, pieces)
    own = {*kept, *(cast.name for before, _ in casts.values() for cast in before)}  # they read the input as it is
    casts_in = [cast for info in graph.input if _is_float32(info) for cast in _cast_input(graph, info.name, own)]
    casts_out = [_cast_output(graph, info.name) for info in graph.output if _is_float32(info)]
    onnx_graph.replace_nodes(graph, [*casts_in, *graph.node, *casts_out])
    typed = onnx_graph.infer_shapes(result)
    onnx.checker.check_model(typed, full_check=True)
    if num_zeros:
        notes.append(f"{num_zeros} numbers of weights are below FP16's range and became 0")
    return onnx_graph.PassResult(typed, num_changes, tuple(notes))


def _is_float32(info: onnx.ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.elem_type == TensorProto.FLOAT)


def _notes(graph: GraphProto, island: set[int], small: dict[str, float]) -> list[str]:
    if not small:
        return []
    named = ", ".join(f"{name!r} ({value:.2g})" for name, value in small.items())
    nodes = ", ".join(dict.fromkeys(graph.node[place].op_type for place in sorted(island)))
    return [f"too small for FP16: {named}; what is computed with it stays in float32 ({nodes})"]


def _constants_to_initializers(graph: GraphProto) -> None:
    """Make Constant nodes of tensors initializers, in place, so that their readers decide about their type."""
    constants = [
        node for node in graph.node if node.op_type == "Constant" and onnx_graph.attribute(node, "value") is not None
    ]
    outputs = {info.name for info in graph.output}
    for node in constants:
        if node.output[0] not in outputs:
            graph.initializer.append(onnx_graph.attribute(node, "value"))
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _float32_inputs(node: NodeProto, opset: int) -> tuple[int, ...]:
    """Return the inputs that are float32 in every type of model: by ONNX's definition, or by `_KEPT_INPUTS`."""
    formal = _formal_inputs(node, opset)
    fixed = (slot for slot, entry in enumerate(formal) if entry.type_str == "tensor(float)")
    return (*_KEPT_INPUTS.get(node.op_type, ()), *fixed)


def _formal_inputs(node: NodeProto, opset: int) -> Sequence[Any]:
    """Return the inputs that ONNX defines; none of operators that it does not know, nor of Q/DQ."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return ()  # scales: what opset 19 allows, `float16_qdq` uses
    try:
        formal: Sequence[Any] = onnx.defs.get_schema(node.op_type, opset, node.domain).inputs
    except onnx.defs.SchemaError:
        return ()
    return formal


def _has_float16_form(node: NodeProto, opset: int, wide: Collection[str]) -> bool:
    """Tell whether ONNX defines the operator for FP16 where this node reads float32: not Celu, nor CumSum before 14.

    Inputs that are float32 in every model do not count (`_float32_inputs`), and Q/DQ is `float16_qdq`'s.
    """
    formal, kept = _formal_inputs(node, opset), _float32_inputs(node, opset)
    return not formal or all(
        "tensor(float16)" in formal[min(slot, len(formal) - 1)].types
        for slot, name in enumerate(node.input)
        if name in wide and slot not in kept
    )


def _convert_constants(graph: GraphProto, reads: set[tuple[int, int]]) -> tuple[int, int]:
    """Convert float32 initializers and tensors in attributes, in place; return how many, and how many numbers became 0.

    A constant that is read as float32 (`reads`: place of node and input) keeps its type; if it is read both ways, there
    are two of it.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for place, node in enumerate(graph.node):
        for slot, name in enumerate(node.input):
            places.setdefault(name, []).append((place, slot))
    tensors = [entry.t for node in graph.node for entry in node.attribute if entry.HasField("t")]
    for tensor in list(graph.initializer):
        kept = [read for read in places.get(tensor.name, ()) if read in reads]
        if tensor.data_type != TensorProto.FLOAT or (kept and len(kept) == len(places[tensor.name])):
            continue
        if kept:
            copied = graph.initializer.add()
            copied.CopyFrom(tensor)
            copied.name = f"{tensor.name}.float32"
            for place, slot in kept:
                graph.node[place].input[slot] = copied.name
        tensors.append(tensor)
    converted = [tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT]
    return len(converted), sum(_convert(tensor) for tensor in converted)


def _convert(tensor: TensorProto) -> int:
    """Make a float32 tensor FP16, in place; return how many of its numbers became 0. FP16 has infinity, too."""
    array = onnx_graph.array_from_initializer(tensor)
    largest = float(abs(array[~np.isinf(array)]).max(initial=0.0))
    if not largest <= FLOAT16_MAX:
        raise WeightsError(
            f"{tensor.name!r} holds {largest:g}, more than FP16 can ({FLOAT16_MAX:g}); "
            "export without --fp16, or rescale the layer; a mask of attention may be -1e4"
        )
    half = array.astype(np.float16)
    tensor.CopyFrom(onnx_graph.initializer_from_array(tensor.name, half))
    return int(np.count_nonzero(array) - np.count_nonzero(half))


def _island_casts(
    graph: GraphProto, island: set[int], reads: set[tuple[int, int]], wide: set[str]
) -> dict[int, tuple[list[NodeProto], list[NodeProto]]]:
    """Redirect what is read and written as float32; return, by node, the Casts before and behind it.

    Tensors that an island makes are called `NAME.float32`; NAME is what the rest of the graph reads, in FP16.
    """
    constants = {tensor.name for tensor in graph.initializer}
    made = {name for place in island for name in graph.node[place].output if name in wide}
    outputs = {info.name for info in graph.output}
    narrow = {
        name
        for place, node in enumerate(graph.node)
        for slot, name in enumerate(node.input)
        if (place, slot) not in reads
    }
    casts: dict[int, tuple[list[NodeProto], list[NodeProto]]] = {place: ([], []) for place in range(len(graph.node))}
    known: set[str] = set()
    for place, node in enumerate(graph.node):
        for slot, name in enumerate(node.input):
            if (place, slot) not in reads or name in constants:
                continue
            copied = f"{name}.float32"
            node.input[slot] = copied
            if name not in made and copied not in known:
                known.add(copied)
                casts[place][0].append(_cast(name, copied, TensorProto.FLOAT))
        for slot, name in enumerate(node.output):
            if place in island and name in wide:
                node.output[slot] = f"{name}.float32"
                if name in narrow or name in outputs:
                    casts[place][1].append(_cast(f"{name}.float32", name, TensorProto.FLOAT16))
    return casts


def _cast(source: str, result: str, kind: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=kind)


def _write_float16(node: NodeProto) -> None:
    """Let a node that names float32 as its result's type (Cast, EyeLike, RandomNormal) name FP16, in place."""
    for entry in node.attribute:
        if entry.name in _TYPE_ATTRIBUTES and entry.type == onnx.AttributeProto.INT and entry.i == TensorProto.FLOAT:
            entry.i = TensorProto.FLOAT16


def _cast_input(graph: GraphProto, name: str, kept: Collection[str]) -> list[NodeProto]:
    """Redirect the readers of graph input `name` to its FP16 copy; return the Cast, if any reads it."""
    half, is_read = f"{name}.float16", False
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name and node.name not in kept:
                node.input[place], is_read = half, True
    if not is_read:
        return []
    return [onnx.helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16)]


def _cast_output(graph: GraphProto, name: str) -> NodeProto:
    """Let the producer of graph output `name` write an FP16 tensor; return the Cast back."""
    half = f"{name}.float16"
    onnx_graph.rename_tensors(graph, {name: half})
    return onnx.helper.make_node("Cast", [half], [name], name=f"{name}.float32", to=TensorProto.FLOAT)
