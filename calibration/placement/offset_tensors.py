"""Find the activations that can have a zero point though TensorRT wants none: biases take it.

A tensor behind a ReLU uses half of the levels of symmetric INT8, and one whose values lie around 3 wastes as many. With
a zero point z the step is as narrow as its range allows. x in steps s from z is x + s z in steps from 0, so that

    who makes the tensor      adds s z to its bias
    a layer that reads it     takes s z times the sum of its weights off its bias. Exact only where it reads nothing
                              else: one that pads must read a Pad of s z instead of its own zeros
    an Add that reads it      is given s z back by the bias of the layer that makes its other operand
    a ReLU before it          goes: 0 is the lowest level, below which quantization itself cuts. Likewise the upper
                              limit of a ReLU6, which is at or above the highest level

Nothing else is added to the network. Where a tensor cannot be had so (a gate, a pool that averages, an output; a
reader that pads, if no Pad is wanted), it stays symmetric.

Source: Jacob et al. 2018, arXiv:1712.05877, section 2.3 (a zero point as a term of the bias); Nagel et al. 2019,
arXiv:1906.04721, section 4.1.3 (a constant taken from one layer's bias into the next one's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from calibration.placement.for_tensorrt import Placement, output_channel_axis
from calibration.placement.rectifiers import is_rectifier
from exporter.graph.onnx_graph import GraphIndex, attribute, index_graph, pads_by_rule


@dataclass(frozen=True, slots=True)
class OffsetTensor:
    """A tensor, and whose biases take its zero point.

    Attributes:
        name: The tensor.
        rectifier: Name of the ReLU, or the Clip from 0, that it comes out of; "" where values below 0 are kept.
        maker: Name of the layer before it.
        readers: Names of the layers that read it.
        padding: Those of them that pad it.
        added_to: Names of the layers whose output is added to it.
    """

    name: str
    rectifier: str
    maker: str
    readers: tuple[str, ...]
    padding: tuple[str, ...]
    added_to: tuple[str, ...]


def offset_tensors(model: ModelProto, placement: Placement, *, pads: bool) -> dict[str, OffsetTensor]:
    """Return the tensors of a placement that can have a zero point, by name, in graph order.

    Args:
        model: The folded float model.
        placement: Where Q/DQ goes in TensorRT's dialect with nothing kept in float.
        pads: Whether also tensors that a layer pads.
    """
    index = index_graph(model.graph)
    tied = {name for group in placement.shared_scales for name in group}
    tied |= placement.same_range.keys() | set(placement.same_range.values())
    names = [name for name in placement.activations if name not in tied and name not in index.outputs]
    found = (_offset_tensor(name, index, placement.activations) for name in names)
    return {tensor.name: tensor for tensor in found if tensor is not None and (pads or not tensor.padding)}


def _offset_tensor(name: str, index: GraphIndex, quantized: Mapping[str, object]) -> OffsetTensor | None:
    before = _rectifier_and_maker(name, index, quantized)
    if before is None:
        return None
    readers, added_to = [], []
    for use in index.uses.get(name, ()):
        if use.node.op_type == "Add":
            other = _private_layer(use.node.input[1 - use.place], index, quantized)
            if other is None:
                return None
            added_to.append(other)
        elif use.place == 0 and _takes_offset(use.node, index) and not pads_by_rule(use.node):
            readers.append(use.node)
        else:
            return None
    padding = tuple(node.name for node in readers if any(attribute(node, "pads", ())))
    return OffsetTensor(name, *before, tuple(node.name for node in readers), padding, tuple(added_to))


def _rectifier_and_maker(name: str, index: GraphIndex, quantized: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the rectifier before a tensor, a MaxPool perhaps between, and the layer before that, by name.

    The rectifier is "" where there is none.
    """
    rectifier = ""
    tensor = name
    while (node := index.producer.get(tensor)) is not None and node.op_type in ("Relu", "Clip", "MaxPool"):
        if tensor != name and not _is_private(tensor, index, quantized):
            return None
        if node.op_type != "MaxPool":
            if rectifier or not is_rectifier(node, index):
                return None
            rectifier = node.name
        tensor = node.input[0]
    if node is None or not (tensor == name or _is_private(tensor, index, quantized)):
        return None
    makers = [_private_layer(operand, index, quantized) for operand in node.input] if node.op_type == "Add" else []
    if _takes_offset(node, index):
        makers = [node.name]
    maker = next((found for found in makers if found is not None), None)
    return None if maker is None else (rectifier, maker)


def _is_private(tensor: str, index: GraphIndex, quantized: Mapping[str, object]) -> bool:
    """Tell whether one node alone reads a tensor, as it is computed."""
    return len(index.uses.get(tensor, ())) == 1 and tensor not in index.outputs and tensor not in quantized


def _private_layer(tensor: str, index: GraphIndex, quantized: Mapping[str, object]) -> str | None:
    """Return the name of the layer that makes a tensor for one node alone, if its bias can take an offset."""
    node = index.producer.get(tensor)
    if node is None or not _is_private(tensor, index, quantized) or not _takes_offset(node, index):
        return None
    return str(node.name)


def _takes_offset(node: NodeProto, index: GraphIndex) -> bool:
    """Tell whether a node is W x + b with one constant b per output channel, or none."""
    if node.op_type not in ("Conv", "Gemm"):
        return False
    weight = index.initializer.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT:
        return False
    if node.op_type == "Gemm" and not (
        attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    ):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = index.initializer.get(node.input[2])
    return bias is not None and list(bias.dims) == [weight.dims[output_channel_axis(node)]]
