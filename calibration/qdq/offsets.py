"""Write activations with a zero point as TensorRT takes them, without one, and read such a file back.

    x -> ReLU -> Q(s, z) -> DQ(s, z) -> W, b      becomes      x + s z -> Q(s, 0) -> DQ(s, 0) -> W, b - s z sum(W)

Both compute the same levels. A layer that pads reads a Pad of s z, quantized once more with the same step.
`placement.offset_tensors` says for which tensors this holds, and whose biases take the offset. z is counted as INT8, so
UINT8's 0 is -128. The file's metadata keep every z.

A bias grows by this, and must be stored all the same: where FP16 ends before it, the tensor becomes symmetric instead;
where it would leave INT32, which a plain ONNX Runtime session makes of it, its channel's weight scale is widened, as
`insert_qdq` does for the biases of the network itself.
"""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, TensorProto

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.placement.offset_tensors import OffsetTensor, offset_tensors
from calibration.placement.place import place
from calibration.qdq.offset_graph import OffsetGraph, padded_name
from exporter.graph.onnx_graph import copy_model, infer_shapes, refill

INT8_ZERO = 128
"""The UINT8 level that is INT8's 0."""

METADATA_KEY = "zero_points"
"""Of the file's `metadata_props`: JSON, tensor to the UINT8 level of 0 that its biases took."""


def take_offsets(model: ModelProto, reference: ModelProto) -> ModelProto:
    """Return a Q/DQ model of TensorRT's dialect without UINT8 activations, which computes the same.

    Args:
        model: Q/DQ model in which some of `offset_tensors` are UINT8; itself where none is.
        reference: The float model that it was made of; nodes and tensors have the names they have there.
    """
    quantizers = {node.name: node for node in model.graph.node}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    shifted = [
        tensor
        for tensor in _offset_tensors(reference).values()
        if (node := quantizers.get(f"{tensor.name}.quantized")) and types[node.input[2]] == TensorProto.UINT8
    ]
    if not shifted:
        return model
    result = copy_model(model)
    graph = OffsetGraph(result.graph)
    zero_points: dict[str, int] = {}
    for tensor in shifted:
        zero_point = graph.zero_point(tensor)
        offset = graph.scale(tensor) * (zero_point - INT8_ZERO)
        if not graph.has_room(tensor, offset):
            graph.make_symmetric(tensor, zero_point)
            continue
        zero_points[tensor.name] = zero_point
        graph.move(tensor, offset)
        graph.set_zero_point(tensor, np.zeros((), np.int8))
        graph.pad(tensor, offset)
        if tensor.rectifier and graph.is_read_in_float(tensor):
            graph.limit_from(tensor, offset)
        elif tensor.rectifier:
            graph.remove(tensor.rectifier)
    graph.write_biases()
    graph.widen_weight_scales()
    graph.finish()
    if num_pads(result):
        result = infer_shapes(result)
    if zero_points:
        result.metadata_props.add(key=METADATA_KEY, value=json.dumps(zero_points))
    return result


def give_offsets_back(model: ModelProto, reference: ModelProto) -> ModelProto:
    """Return a Q/DQ model as it was before `take_offsets`; itself where that did nothing.

    Args:
        model: The Q/DQ model, whose constants may be damaged.
        reference: The float model that it was made of; nodes and tensors have the names they have there.

    Raises:
        CalibrationError: If the metadata do not fit the graphs.
    """
    stored = _stored(model)
    if stored is None:
        return model
    tensors = _offset_tensors(reference)
    result = copy_model(model)
    graph = OffsetGraph(result.graph)
    try:
        for name, zero_point in json.loads(stored).items():
            tensor = tensors[name]
            offset = graph.scale(tensor) * (zero_point - INT8_ZERO)
            graph.give_padding_back(tensor, offset, reference)
            graph.move(tensor, -offset)
            graph.set_zero_point(tensor, np.asarray(zero_point, np.uint8))
            if tensor.rectifier:
                graph.restore(tensor, reference)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, StopIteration) as err:
        raise CalibrationError(
            f"metadata {METADATA_KEY!r} do not fit the model ({err!r}); they were edited, or it is another's"
        ) from err
    graph.write_biases()
    graph.finish()
    refill(result.metadata_props, [entry for entry in result.metadata_props if entry.key != METADATA_KEY])
    return result


def _offset_tensors(reference: ModelProto) -> dict[str, OffsetTensor]:
    return offset_tensors(reference, place(reference, Dialect.TENSORRT), pads=True)


def num_pads(model: ModelProto) -> int:
    """Return how many layers read a Pad that `take_offsets` added."""
    made_by = {node.output[0]: node.op_type for node in model.graph.node}
    return sum(made_by.get(padded_name(node.name)) == "Pad" for node in model.graph.node)


def num_zero_points(model: ModelProto) -> int:
    """Return how many tensors `take_offsets` took the zero point of."""
    stored = _stored(model)
    return 0 if stored is None else len(json.loads(stored))


def _stored(model: ModelProto) -> str | None:
    return next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
