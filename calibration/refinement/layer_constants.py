"""Read and edit the constants of quantized layers: INT8 levels and scales of weights, biases in float or INT32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto

from calibration.methods.quantize_bias import BIAS_QMAX
from exporter.graph.onnx_graph import array_from_initializer, attribute, index_graph, initializer_from_array


@dataclass(frozen=True, slots=True, eq=False)
class WeightLevels:
    """A quantized weight.

    Attributes:
        name: The initializer.
        levels: int8, shape of the weight.
        scale: float32 [O].
    """

    name: str
    levels: NDArray[np.int8]
    scale: NDArray[np.float32]


class LayerConstants:
    """The constants of a Q/DQ graph, edited in place.

    A constant that something else reads too is never edited: the change would reach it as well.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._index = index_graph(graph)

    def weight(self, node: NodeProto) -> WeightLevels | None:
        """Return the weight of a layer, or None where it is shared or not stored as INT8 with a scale per channel."""
        dequantize = self._index.producer[node.input[1]]
        name = dequantize.input[0]
        tensor, scale = self._tensors[name], array_from_initializer(self._tensors[dequantize.input[1]])
        shared = self._is_shared(node.input[1]) or self._is_shared(name)
        if shared or tensor.data_type != TensorProto.INT8 or scale.ndim != 1:
            return None
        return WeightLevels(name, array_from_initializer(tensor), scale)

    def set_levels(self, name: str, levels: NDArray[np.int8]) -> None:
        """Store other levels."""
        self._tensors[name].CopyFrom(initializer_from_array(name, levels))

    def bias(self, node: NodeProto, num_channels: int) -> NDArray[np.float64] | None:
        """Return what a layer adds to each channel, float64 [num_channels]; None where that is no constant of its own.

        Zeros where it has no bias, and for a MatMul.
        """
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(num_channels)
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0:
            return None
        stored = self._tensors.get(node.input[2])
        if stored is not None:
            values = array_from_initializer(stored).astype(np.float64)
        else:
            dequantize = self._index.producer.get(node.input[2])
            if dequantize is None or any(name not in self._tensors for name in dequantize.input):
                return None
            levels, scale, *_ = (array_from_initializer(self._tensors[name]) for name in dequantize.input)
            values = levels * scale.astype(np.float64)
        return values if values.shape == (num_channels,) else None

    def add_to_bias(self, node: NodeProto, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add to a layer's bias what it can take; give a Conv or Gemm without bias one, and let a MatMul's Add take it.

        Returns:
            What was added, float64 [C]; an INT32 bias takes whole steps only.
        """
        add = self._adder(node, len(wanted))
        return np.zeros_like(wanted) if add is None else add(wanted)

    def takes_bias(self, node: NodeProto, num_channels: int) -> bool:
        """Tell whether `add_to_bias` can add anything."""
        return self._adder(node, num_channels) is not None

    def _adder(self, node: NodeProto, num_channels: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
        """Return what adds to a layer's bias; None where it can take nothing."""
        if node.op_type == "MatMul":
            added = self._added_constant(node, num_channels)
            return None if added is None else partial(self._add_float, added)
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0:
            return None
        if len(node.input) < 3 or not node.input[2]:
            return partial(self._new_bias, node)
        name = node.input[2]
        if self._is_own(name, num_channels, TensorProto.FLOAT):
            return partial(self._add_float, name)
        dequantize = self._index.producer.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or self._is_shared(name):
            return None
        is_own = self._is_own(dequantize.input[0], num_channels, TensorProto.INT32)
        return partial(self._add_integer, dequantize) if is_own else None

    def _is_shared(self, name: str) -> bool:
        return len(self._index.uses.get(name, ())) > 1 or name in self._index.outputs

    def _is_own(self, name: str, num_channels: int, data_type: int) -> bool:
        """Tell whether `name` is a constant [num_channels] of that type which nothing else reads."""
        tensor = self._tensors.get(name)
        fits = tensor is not None and tensor.data_type == data_type and list(tensor.dims) == [num_channels]
        return fits and not self._is_shared(name)

    def _add_float(self, name: str, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        before = array_from_initializer(self._tensors[name])
        after = (before + wanted).astype(before.dtype)
        self._tensors[name].CopyFrom(initializer_from_array(name, after))
        applied: NDArray[np.float64] = after.astype(np.float64) - before
        return applied

    def _add_integer(self, dequantize: NodeProto, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add whole steps to an INT32 bias behind its DequantizeLinear, as far as `quantize_bias` lets it go."""
        name = dequantize.input[0]
        scale = array_from_initializer(self._tensors[dequantize.input[1]]).astype(np.float64)
        before = array_from_initializer(self._tensors[name]).astype(np.int64)
        steps = np.clip(np.rint(wanted / scale), -2 * BIAS_QMAX, 2 * BIAS_QMAX).astype(np.int64)
        after = np.clip(before + steps, -BIAS_QMAX, BIAS_QMAX)
        self._tensors[name].CopyFrom(initializer_from_array(name, after.astype(np.int32)))
        applied: NDArray[np.float64] = (after - before) * scale
        return applied

    def _new_bias(self, node: NodeProto, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the node a float bias, in either dialect: ONNX Runtime makes it INT32 itself when it fuses the node."""
        name = f"{node.name}.bias"
        while name in self._tensors or name in self._index.producer:
            name += "_corrected"
        values = wanted.astype(np.float32)
        self._graph.initializer.append(initializer_from_array(name, values))
        self._tensors[name] = self._graph.initializer[-1]
        del node.input[2:]
        node.input.append(name)
        applied: NDArray[np.float64] = values.astype(np.float64)
        return applied

    def _added_constant(self, node: NodeProto, num_channels: int) -> str | None:
        """Return the constant [C] that the only reader of a MatMul adds, or None."""
        uses = self._index.uses.get(node.output[0], ())
        if len(uses) != 1 or uses[0].node.op_type != "Add" or node.output[0] in self._index.outputs:
            return None
        name = uses[0].node.input[1 - uses[0].place]
        return name if self._is_own(name, num_channels, TensorProto.FLOAT) else None
