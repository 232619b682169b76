"""A Q/DQ graph whose tensors are moved by a constant each, their makers' and readers' biases with them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto
from onnx.helper import make_node, np_dtype_to_tensor_dtype, tensor_dtype_to_np_dtype

from calibration.methods.quantize_bias import least_weight_scale
from calibration.methods.quantize_weight import QuantizedArray, widen_scales
from calibration.placement.for_tensorrt import output_channel_axis
from calibration.placement.offset_tensors import OffsetTensor
from calibration.qdq.insert_qdq import ZERO_POINT
from exporter.graph import onnx_graph


def padded_name(layer: str) -> str:
    """Return the name of what a layer reads that pads no longer."""
    return f"{layer}.padded"


class OffsetGraph:
    """A Q/DQ graph under edit: `move` as often as wanted, then `write_biases`, then `finish`."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.node}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._infos = {info.name: info for info in graph.value_info}
        self._added: dict[str, NDArray[np.float64]] = {}
        self._gone: set[str] = set()
        self._before: dict[str, list[NodeProto]] = {}
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
        self._added.update(self._moved(tensor, offset))

    def has_room(self, tensor: OffsetTensor, offset: float) -> bool:
        """Tell whether the biases that `move` changes stay finite in the file's type."""
        moved = ((self._bias(self._nodes[layer]), added) for layer, added in self._moved(tensor, offset).items())
        return not any(np.abs(before + added).max() > np.finfo(before.dtype).max for before, added in moved)

    def make_symmetric(self, tensor: OffsetTensor, zero_point: int) -> None:
        """Give a UINT8 tensor an INT8 range from -amax to amax that holds its own, and no offset."""
        quantize = self._nodes[f"{tensor.name}.quantized"]
        reach = max(zero_point, 255 - zero_point) / 127
        for name in {node.input[1] for node in (quantize, *self._uses[quantize.output[0]])}:
            scale = self._array(name)
            self._constant(name, (scale.astype(np.float64) * reach).astype(scale.dtype))
        self.set_zero_point(tensor, np.zeros((), np.int8))

    def widen_weight_scales(self) -> None:
        """Make room for the changed biases of float32 in INT32, where the weights and what they read are quantized."""
        for restored in dict.fromkeys(self._nodes[name].input[1] for name in self._added):
            weight = self._made_by.get(restored)
            if weight is None or self._array(weight.input[1]).dtype != np.float32:
                continue
            least = [self._least_weight_scale(node) for node in self._uses[restored]]
            axis = output_channel_axis(self._uses[restored][0])
            quantized = QuantizedArray(self._array(weight.input[0]), self._array(weight.input[1]), axis)
            widened = widen_scales(quantized, np.max(least, axis=0))
            self._constant(weight.input[0], widened.values)
            self._constant(weight.input[1], widened.scale)

    def _least_weight_scale(self, node: NodeProto) -> NDArray[np.float64]:
        """Return the weight scales [O] that a layer's bias needs, 0 where it needs none."""
        data = self._made_by.get(node.input[0])
        bias = self._bias(node)
        if data is None or data.op_type != "DequantizeLinear":
            return np.zeros(len(bias))
        least = least_weight_scale(bias, float(self._array(data.input[1])))
        least[bias == 0] = 0.0
        return least

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

    def pad(self, tensor: OffsetTensor, zero: float) -> None:
        """Let the layers that pad a moved tensor read a Pad of `zero`, quantized as the tensor is; at 0 they pad."""
        for layer in tensor.padding if zero else ():
            node, name = self._nodes[layer], padded_name(layer)
            source = node.input[0]
            before, behind = np.split(np.asarray(onnx_graph.attribute(node, "pads"), np.int64), 2)
            onnx_graph.set_attributes(node, "pads")
            self._constant(f"{name}.pads", np.concatenate([[0, 0], before, [0, 0], behind]))
            self._constant(f"{name}.zero", np.asarray(zero, self._dtype_of(node)))
            added = [make_node("Pad", [source, f"{name}.pads", f"{name}.zero"], [name], name=name)]
            node.input[0] = name
            if (restore := self._made_by.get(source)) is not None and restore.op_type == "DequantizeLinear":
                for op_type, word in (("QuantizeLinear", "quantized"), ("DequantizeLinear", "dequantized")):
                    made = f"{name}.{word}"
                    added.append(make_node(op_type, [node.input[0], *restore.input[1:]], [made], name=made))
                    node.input[0] = made
            self._before[layer] = added

    def give_padding_back(self, tensor: OffsetTensor, zero: float, reference: ModelProto) -> None:
        """Let the layers pad by themselves, as in the reference: the inverse of `pad`."""
        for layer in tensor.padding if zero else ():
            node = self._nodes[layer]
            while padded_name(layer) not in self._gone:
                added = self._made_by[node.input[0]]
                self._gone.add(added.name)
                node.input[0] = added.input[0]
            theirs = next(other for other in reference.graph.node if other.name == layer)
            onnx_graph.set_attributes(node, pads=onnx_graph.attribute(theirs, "pads"))

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
                self._constant(name, onnx_graph.array_from_initializer(limits[name]))

    def write_biases(self) -> None:
        """Write what the biases have taken."""
        for layer, added in self._added.items():
            node = self._nodes[layer]
            if len(node.input) < 3:
                node.input.append("")
            before = self._bias(node)
            shared = sum(node.input[2] in other.input for other in self._graph.node) > 1
            name = f"{layer}.bias.offset" if shared or not node.input[2] else node.input[2]
            self._constant(name, (before + added).astype(before.dtype))
            node.input[2] = name

    def finish(self) -> None:
        """Order the nodes; drop the constants that nothing reads any more."""
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            nodes += self._before.get(node.name, ())
            nodes += [node] if node.name not in self._gone else []
            nodes += [self._behind[node.name]] if node.name in self._behind else []
        onnx_graph.replace_nodes(self._graph, nodes)
        onnx_graph.forget_gone_types(self._graph)
        onnx_graph.remove_unused_initializers(self._graph)

    def _moved(self, tensor: OffsetTensor, offset: float) -> dict[str, NDArray[np.float64]]:
        """Return by layer what its bias has taken, float64 [O], when a tensor is moved, too."""
        moved: dict[str, NDArray[np.float64]] = {}

        def add(layer: str, added: NDArray[np.float64] | float) -> None:
            moved[layer] = moved.get(layer, self._added.get(layer, np.zeros(self._num_channels(layer)))) + added

        add(tensor.maker, offset)
        for name in tensor.readers:
            add(name, -offset * self._sums_of_weights(self._nodes[name]))
        for name in tensor.added_to:
            add(name, -offset)
        return moved

    def _num_channels(self, layer: str) -> int:
        node = self._nodes[layer]
        return int(self._constants[self._weight(node)].dims[output_channel_axis(node)])

    def _bias(self, node: NodeProto) -> NDArray[Any]:
        """Return a layer's bias [O], zeros where it has none."""
        if len(node.input) > 2 and node.input[2]:
            return self._array(node.input[2])
        return np.zeros(self._num_channels(node.name), self._dtype_of(node))

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
        limit: float | None = onnx_graph.attribute(node, "max")
        return limit

    def _array(self, name: str) -> NDArray[Any]:
        return onnx_graph.array_from_initializer(self._constants[name])

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        """Add a constant, or give one other values."""
        if name not in self._constants:
            self._constants[name] = self._graph.initializer.add()
        self._constants[name].CopyFrom(onnx_graph.initializer_from_array(name, np.asarray(values)))
