"""Write activations with a zero point as TensorRT takes them, without one, and read such a file back.

    x -> ReLU -> Q(s, z) -> DQ(s, z) -> W, b      becomes      x + s z -> Q(s, 0) -> DQ(s, 0) -> W, b - s z sum(W)

Both compute the same levels. `placement.offset_tensors` says for which tensors this holds, and whose biases take the
offset. z is counted as INT8, so UINT8's 0 is -128. The file's metadata keep every z.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import np_dtype_to_tensor_dtype, tensor_dtype_to_np_dtype

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.placement.for_tensorrt import output_channel_axis
from calibration.placement.offset_tensors import OffsetTensor, offset_tensors
from calibration.placement.place import place
from calibration.qdq.insert_qdq import ZERO_POINT
from exporter.graph.onnx_graph import (
    array_from_initializer,
    attribute,
    copy_model,
    initializer_from_array,
    remove_unused_initializers,
    replace_nodes,
)

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
    graph = _Graph(result.graph)
    zero_points: dict[str, int] = {}
    for tensor in shifted:
        zero_points[tensor.name] = graph.zero_point(tensor)
        offset = graph.scale(tensor) * (zero_points[tensor.name] - INT8_ZERO)
        graph.move(tensor, offset)
        graph.set_zero_point(tensor, np.zeros((), np.int8))
        if tensor.rectifier and graph.is_read_in_float(tensor):
            graph.limit_from(tensor, offset)
        elif tensor.rectifier:
            graph.remove(tensor.rectifier)
    graph.finish()
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
    stored = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if stored is None:
        return model
    tensors = _offset_tensors(reference)
    result = copy_model(model)
    graph = _Graph(result.graph)
    try:
        for name, zero_point in json.loads(stored).items():
            tensor = tensors[name]
            graph.move(tensor, -graph.scale(tensor) * (zero_point - INT8_ZERO))
            graph.set_zero_point(tensor, np.asarray(zero_point, np.uint8))
            if tensor.rectifier:
                graph.restore(tensor, reference)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, StopIteration) as err:
        raise CalibrationError(
            f"metadata {METADATA_KEY!r} do not fit the model ({err!r}); they were edited, or it is another's"
        ) from err
    graph.finish()
    kept = [entry for entry in result.metadata_props if entry.key != METADATA_KEY]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    return result


def _offset_tensors(reference: ModelProto) -> dict[str, OffsetTensor]:
    return offset_tensors(reference, place(reference, Dialect.TENSORRT))


class _Graph:
    """A Q/DQ graph under edit."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.node}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._infos = {info.name: info for info in graph.value_info}
        self._added: dict[str, NDArray[np.float64]] = {}
        self._gone: set[str] = set()
        self._behind: dict[str, NodeProto] = {}
        self._uses: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._uses[name].append(node)

    def scale(self, tensor: OffsetTensor) -> float:
        """Return the step of a tensor."""
        return float(self._array(self._nodes[f"{tensor.name}.quantized"].input[1]).reshape(()))

    def move(self, tensor: OffsetTensor, offset: float) -> None:
        """Add `offset` to a tensor, and let those who read it not notice."""
        self._add(tensor.maker, np.float64(offset))
        for name in tensor.readers:
            self._add(name, -offset * self._sums_of_weights(self._nodes[name]))
        for name in tensor.added_to:
            self._add(name, np.float64(-offset))

    def zero_point(self, tensor: OffsetTensor) -> int:
        """Return the level of 0."""
        return int(self._array(self._nodes[f"{tensor.name}.quantized"].input[2]).reshape(()))

    def set_zero_point(self, tensor: OffsetTensor, level: NDArray[Any]) -> None:
        """Let another level be 0, and be of another type."""
        name = ZERO_POINT if level.dtype == np.int8 else f"{tensor.name}.{ZERO_POINT}"
        self._constant(name, level)
        quantize = self._nodes[f"{tensor.name}.quantized"]
        for node in (quantize, *self._uses[quantize.output[0]]):
            node.input[2] = name
        if (info := self._infos.get(f"{tensor.name}.quantized")) is not None:
            info.type.tensor_type.elem_type = np_dtype_to_tensor_dtype(level.dtype)

    def is_read_in_float(self, tensor: OffsetTensor) -> bool:
        """Tell whether anything but its QuantizeLinear reads a tensor, as a layer does that is kept in float."""
        return any(node.name != f"{tensor.name}.quantized" for node in self._uses[tensor.name])

    def limit_from(self, tensor: OffsetTensor, low: float) -> None:
        """Let the rectifier cut at `low` instead of 0, and at its own upper limit as much lower."""
        node = self._nodes[tensor.rectifier]
        high = self._upper_limit(node)
        limits = [low] if high is None else [low, high + low]
        del node.input[1:], node.attribute[:]
        node.op_type = "Clip"
        for word, value in zip(("min", "max"), limits, strict=False):
            name = f"{node.name}.{word}.offset"
            self._constant(name, np.asarray(value, self._dtype_after(node)))
            node.input.append(name)

    def remove(self, rectifier: str) -> None:
        """Take a node of one input out; what it made has the same name afterwards."""
        node = self._nodes[rectifier]
        before = self._made_by[node.input[0]]
        before.output[list(before.output).index(node.input[0])] = node.output[0]
        self._gone.add(rectifier)

    def restore(self, tensor: OffsetTensor, reference: ModelProto) -> None:
        """Put the reference's rectifier back."""
        theirs = next(node for node in reference.graph.node if node.name == tensor.rectifier)
        if tensor.rectifier in self._nodes:
            self._nodes[tensor.rectifier].CopyFrom(theirs)
        else:
            before = self._made_by[theirs.output[0]]
            before.output[list(before.output).index(theirs.output[0])] = theirs.input[0]
            self._behind[before.name] = theirs
            if (info := self._infos.get(theirs.output[0])) is not None:
                self._graph.value_info.add(name=theirs.input[0], type=info.type)
        limits = {tensor.name: tensor for tensor in reference.graph.initializer}
        for name in theirs.input[1:]:
            if name in limits and name not in self._constants:
                self._constant(name, array_from_initializer(limits[name]))

    def finish(self) -> None:
        """Write the biases; drop the constants that nothing reads any more."""
        for name, added in self._added.items():
            self._write_bias(self._nodes[name], added)
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            nodes += [node] if node.name not in self._gone else []
            nodes += [self._behind[node.name]] if node.name in self._behind else []
        replace_nodes(self._graph, nodes)
        made = {name for node in nodes for name in node.output}
        infos = [info for info in self._graph.value_info if info.name in made]
        del self._graph.value_info[:]
        self._graph.value_info.extend(infos)
        remove_unused_initializers(self._graph)

    def _add(self, layer: str, offset: NDArray[np.float64] | np.float64) -> None:
        if layer not in self._added:
            node = self._nodes[layer]
            self._added[layer] = np.zeros(self._constants[self._weight(node)].dims[output_channel_axis(node)])
        self._added[layer] += offset

    def _weight(self, node: NodeProto) -> str:
        """Return the constant that a layer's weight is stored in."""
        dequantize = self._made_by.get(node.input[1])
        return str(node.input[1] if dequantize is None else dequantize.input[0])

    def _sums_of_weights(self, node: NodeProto) -> NDArray[np.float64]:
        """Return the sum of a layer's weights per output channel, float64 [O]."""
        axis = output_channel_axis(node)
        dequantize = self._made_by.get(node.input[1])
        values = self._array(self._weight(node))
        others = tuple(place for place in range(values.ndim) if place != axis)
        sums: NDArray[np.float64] = values.sum(axis=others, dtype=np.float64)
        return sums if dequantize is None else sums * self._array(dequantize.input[1]).astype(np.float64)

    def _write_bias(self, node: NodeProto, added: NDArray[np.float64]) -> None:
        if len(node.input) < 3:
            node.input.append("")
        before = self._array(node.input[2]) if node.input[2] else np.zeros(len(added), self._dtype_of(node))
        shared = sum(node.input[2] in other.input for other in self._graph.node) > 1
        name = f"{node.name}.bias.offset" if shared or not node.input[2] else node.input[2]
        self._constant(name, (before + added).astype(before.dtype))
        node.input[2] = name

    def _dtype_of(self, node: NodeProto) -> np.dtype[np.generic]:
        """Return the type of a layer's weights as the layer reads them."""
        dequantize = self._made_by.get(node.input[1])
        return self._array(node.input[1] if dequantize is None else dequantize.input[1]).dtype

    def _dtype_after(self, node: NodeProto) -> np.dtype[Any]:
        """Return the type of what a rectifier makes: FP16 in a file that is typed so."""
        info = self._infos.get(node.output[0])
        return np.dtype(np.float32) if info is None else tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)

    def _upper_limit(self, node: NodeProto) -> float | None:
        if node.op_type == "Relu":
            return None
        if len(node.input) > 2 and node.input[2]:
            return float(self._array(node.input[2]).reshape(()))
        limit: float | None = attribute(node, "max")
        return limit

    def _array(self, name: str) -> NDArray[Any]:
        return array_from_initializer(self._constants[name])

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        """Add a constant, or give one other values."""
        if name not in self._constants:
            self._constants[name] = self._graph.initializer.add()
        self._constants[name].CopyFrom(initializer_from_array(name, np.asarray(values)))
