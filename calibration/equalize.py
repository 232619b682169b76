"""Scale channels so that they use the INT8 range well, without changing what the model computes.

One scale per activation tensor must serve its largest channel; a channel that only reaches a tenth of that is stored
in 13 of 127 levels. Per group of tensors (`calibration.channel_groups`) channel c is multiplied by

    s[c] = ( min over the group's quantized tensors t of  max_c' r_t[c'] / r_t[c] ) ** strength

with r_t[c] the largest |x| of channel c. So no tensor's range grows, the largest channel of each stays as it is, and
every other channel comes nearer to it. The rows of the layers before are multiplied by s, which per-channel weight
scales absorb without loss; the columns of the layers behind are divided by s, and a weight scale serves all columns of
its row: hence a strength of 1/2, half way (in logarithms) between what is best for the activation and for the weight.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1, with ranges measured on images instead of taken from weights,
and for whole groups instead of pairs of layers; the square root is theirs too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from calibration.channel_groups import ChannelGroup
from exporter.graph import (
    PassResult,
    array_from_initializer,
    attribute,
    copy_model,
    initializer_from_array,
)

MAX_FACTOR = 64.0
"""No channel is scaled by more: one that small carries next to nothing, and its range is known from few values."""

STRENGTH = 0.5
"""See the module's first lines."""

Factors = NDArray[np.float64]


def equalizing_factors(
    group: ChannelGroup, largest: Mapping[str, NDArray[np.float64]], *, strength: float = STRENGTH
) -> Factors:
    """Return s, float64 [num_channels], each from 1 to `MAX_FACTOR`.

    Args:
        group: Which tensors.
        largest: Quantized tensor to its largest |x| per channel, float64 [num_channels]; tensors of the group that are
            missing here do not count.
        strength: 0 (all factors 1) to 1 (every channel as large as it can get).
    """
    room = np.full(group.num_channels, np.inf)
    for name in group.tensors:
        if name in largest:
            peaks = largest[name]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.fmin(room, np.where(peaks > 0, peaks.max() / peaks, np.inf))
    room[~np.isfinite(room)] = 1.0  # a channel that is always zero has no range to use
    factors: Factors = np.clip(room**strength, 1.0, MAX_FACTOR)
    return factors


def scale_channels(model: ModelProto, factors: Mapping[ChannelGroup, Factors]) -> PassResult:
    """Return a copy in which every channel of every group is multiplied by its factor.

    The outputs stay the same up to float32 rounding of the scaled constants.

    Args:
        model: The float32 model that the groups were found in.
        factors: Group to factors, float64 [num_channels], > 0.
    """
    result = copy_model(model)
    nodes = {node.name: node for node in result.graph.node}
    arrays = _Constants(result.graph)
    for group, scale in factors.items():
        for name in group.producers:
            _scale_rows(nodes[name], arrays, scale)
        for name in group.consumers:
            _divide_columns(nodes[name], arrays, scale)
    arrays.store()
    return PassResult(result, len(factors))


class _Constants:
    """Float64 working copies of constants: a weight between two groups is scaled twice and rounded once."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays: dict[str, NDArray[np.float64]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._arrays:
            self._arrays[name] = array_from_initializer(self._tensors[name]).astype(np.float64)
        return self._arrays[name]

    def store(self) -> None:
        """Write every changed array back as float32."""
        for name, array in self._arrays.items():
            self._tensors[name].CopyFrom(initializer_from_array(name, array.astype(np.float32)))


def _scale_rows(node: NodeProto, constants: _Constants, scale: Factors) -> None:
    """Multiply output channel c by scale[c], in place."""
    if node.op_type == "BatchNormalization":
        constants[node.input[1]][...] *= scale
    else:
        weight = constants[node.input[1]]
        weight *= _along(scale, weight.ndim, _output_axis(node))
    if len(node.input) > 2 and node.input[2]:
        constants[node.input[2]][...] *= scale


def _divide_columns(node: NodeProto, constants: _Constants, scale: Factors) -> None:
    """Let the node read channel c times scale[c] and give what it gave before, in place."""
    weight = constants[node.input[1]]
    if node.op_type == "BatchNormalization":  # scale (x - mean) / std: divide the scale, multiply the mean
        weight /= scale
        constants[node.input[3]][...] *= scale
    elif node.op_type == "Gemm":
        weight /= _along(scale, weight.ndim, 1 - _output_axis(node))
    else:  # Conv [O, I / groups, kH, kW]: output o reads the inputs of its group
        num_groups = attribute(node, "group", 1)
        grouped = weight.reshape(num_groups, -1, *weight.shape[1:])
        grouped /= scale.reshape(num_groups, 1, -1, *[1] * (weight.ndim - 2))


def _output_axis(node: NodeProto) -> int:
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) == 1 else 1


def _along(scale: Factors, ndim: int, axis: int) -> Factors:
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)
