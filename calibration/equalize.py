"""Scale channels so that they use the INT8 range well, without changing what the model computes.

One scale per activation tensor must serve its largest channel; a channel that only reaches a tenth of that is stored
in 13 of 127 levels. Per group of tensors (`calibration.channel_groups`) channel c is multiplied by

    s[c] = ( min over the group's quantized tensors t of  max_c' r_t[c'] / r_t[c] ) ** strength

with r_t[c] the largest |x| of channel c. So no tensor's range grows, the largest channel of each stays as it is, and
every other channel comes nearer to it. The rows of the layers before are multiplied by s, which per-channel weight
scales absorb without loss; the columns of the layers behind are divided by s, and a weight scale serves all columns of
its row: hence a strength of 1/2, half way (in logarithms) between what is best for the activation and for the weight.

Once the tensors' scales are known, a second, small factor per channel moves its most frequent values onto the grid:

    a[c] = argmin over a in [1 - reach, 1 + reach] of  sum_t  mean |Q_t(a x) / a - x|^2 / mean |x_t|^2

A flat background gives the same value at thousands of positions, all rounded by the same amount; such an error does not
average out, and it vanishes where the value is a level. The factor is kept only where it also lowers the error of
values that it was not chosen on.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1, with ranges measured on images instead of taken from weights,
and for whole groups instead of pairs of layers; the square root is theirs too. The second factor is this project's: the
mse criterion of a scale, applied to one channel; measured in docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from calibration.calibration_table import TensorRange
from calibration.channel_groups import ChannelGroup
from calibration.channel_statistics import ChannelStatistics
from calibration.quantize_weight import QMAX
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

REACH = 0.15
"""Largest relative change of a channel by alignment: half a step at level 4, where most of a channel's values are."""

NUM_CANDIDATES = 25
"""Factors tried per channel, 1.25 % apart: half a step at level 40."""

MIN_VALUES = 256
"""A channel known by fewer values is not aligned."""

Factors = NDArray[np.float64]


def equalizing_factors(
    group: ChannelGroup, statistics: Mapping[str, ChannelStatistics], *, strength: float = STRENGTH
) -> Factors:
    """Return s, float64 [num_channels], each from 1 to `MAX_FACTOR`.

    Args:
        group: Which tensors.
        statistics: Of the quantized tensors; those of the group that are missing here do not count.
        strength: 0 (all factors 1) to 1 (every channel as large as it can get).
    """
    room = np.full(group.num_channels, np.inf)
    for name in group.tensors:
        if name in statistics:
            largest = statistics[name].max_abs
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.fmin(room, np.where(largest > 0, largest.max() / largest, np.inf))
    room[~np.isfinite(room)] = 1.0  # a channel that is always zero has no range to use
    factors: Factors = np.clip(room**strength, 1.0, MAX_FACTOR)
    return factors


def aligning_factors(
    group: ChannelGroup, statistics: Mapping[str, ChannelStatistics], ranges: Mapping[str, TensorRange]
) -> Factors:
    """Return a, float64 [num_channels], each from 1 - `REACH` to 1 + `REACH`.

    Args:
        group: Which tensors.
        statistics: Of the quantized tensors; those of the group that are missing here do not count.
        ranges: Tensor name to its scale and levels.
    """
    names = [name for name in group.tensors if name in statistics and statistics[name].values.shape[1] >= MIN_VALUES]
    factors = np.ones(group.num_channels)
    if not names:
        return factors
    candidates = np.linspace(1.0 - REACH, 1.0 + REACH, NUM_CANDIDATES)
    chosen_on = [statistics[name].values[:, ::2] for name in names]
    proven_on = [statistics[name].values[:, 1::2] for name in names]
    levels = [ranges[name] for name in names]
    errors = np.stack([_relative_errors(chosen_on, levels, np.full(len(factors), a)) for a in candidates])
    best = candidates[errors.argmin(axis=0)]
    better = _relative_errors(proven_on, levels, best) < _relative_errors(proven_on, levels, factors)
    factors[better] = best[better]
    return factors


def _relative_errors(
    values: Sequence[NDArray[np.float32]], ranges: Sequence[TensorRange], factors: Factors
) -> NDArray[np.float64]:
    """Return, per channel, the squared rounding error of Q(a x) / a summed over tensors, each relative to its power."""
    total = np.zeros(len(factors))
    for array, kept in zip(values, ranges, strict=True):
        low, high = (-QMAX - 1, QMAX) if kept.dtype == "int8" else (-kept.zero_point, 255 - kept.zero_point)
        power = float(np.vdot(array, array)) / array.size
        scaled = array * (factors / kept.scale).astype(np.float32)[:, np.newaxis]
        scaled -= np.clip(np.rint(scaled), low, high)
        if power > 0:
            total += np.einsum("cn,cn->c", scaled, scaled) / array.shape[1] * np.square(kept.scale / factors) / power
    return total


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
