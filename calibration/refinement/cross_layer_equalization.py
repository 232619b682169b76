"""Scale channels so that they use the INT8 range well, without changing what the model computes.

One scale per activation tensor must serve its largest channel; a channel that only reaches a tenth of that is stored
in 13 of 127 levels. Per group of tensors (`calibration.refinement.channel_groups`) channel c is multiplied by

    s[c] = ( min over the group's quantized tensors t of  max_c' r_t[c'] / r_t[c] ) ** strength

with r_t[c] the largest |x| of channel c. So no tensor's range grows, the largest channel of each stays as it is, and
every other channel comes nearer to it. The rows of the layers before are multiplied by s, which per-channel weight
scales absorb without loss; the columns of the layers behind are divided by s, and a weight scale serves all columns of
its row: hence a strength of 1/2, half way (in logarithms) between what is best for the activation and for the weight.

What stands before a rectifier is not quantized and has no range here, but is scaled with what stands behind it: a
channel that is loud below zero and quiet above could pass what FP16 holds. So s[c] is also kept where nothing within
the observed ranges takes the layer's output past `MAX_SUM`: s[c] (sum_j |W[c, j]| r_x[j] + |b[c]|).

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1, with ranges measured on images instead of taken from weights,
and for whole groups instead of pairs of layers; the square root is theirs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from calibration.refinement.channel_groups import ChannelGroup
from exporter.graph.onnx_graph import (
    PassResult,
    array_from_initializer,
    attribute,
    copy_without_constants,
    index_graph,
    initializer_from_array,
)

MAX_FACTOR = 64.0
"""No channel is scaled by more: one that small carries next to nothing, and its range is known from few values."""

STRENGTH = 0.5
"""See the module's first lines."""

MAX_SUM = 32_752.0
"""Half of the largest FP16 value, 65504: an Add behind the layer and other pictures have the other half. Being the
worst case, the sums are far above what is met: 786 at most in a trained ResNet-18, so no factor of it is touched."""

Factors = NDArray[np.float64]


def equalizing_factors(
    group: ChannelGroup,
    largest: Mapping[str, NDArray[np.float64]],
    *,
    sums: Mapping[str, NDArray[np.float64]] | None = None,
    strength: float = STRENGTH,
) -> Factors:
    """Return s, float64 [num_channels], each from 1 to `MAX_FACTOR`.

    Args:
        group: Which tensors.
        largest: Quantized tensor to its largest |x| per channel, float64 [num_channels]; tensors of the group that are
            missing here do not count.
        sums: Layer to what its output cannot pass, float64 [num_channels] (`largest_sums`); layers that are missing do
            not count.
        strength: 0 (all factors 1) to 1 (every channel as large as it can get).
    """
    room = np.full(group.num_channels, np.inf)
    for name in group.tensors:
        if name in largest:
            peaks = largest[name]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.fmin(room, np.where(peaks > 0, peaks.max() / peaks, np.inf))
    room[~np.isfinite(room)] = 1.0  # a channel that is always zero has no range to use
    allowed = np.full(group.num_channels, MAX_FACTOR)
    for layer in group.producers:
        if sums is not None and layer in sums:
            allowed = np.minimum(allowed, MAX_SUM / np.maximum(sums[layer], 1.0))
    factors: Factors = np.clip(room**strength, 1.0, np.maximum(allowed, 1.0))
    return factors


def largest_sums(
    model: ModelProto, groups: Iterable[ChannelGroup], largest: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return, per Conv and Gemm that makes a group's tensor, what |y| of a channel cannot pass, float64 [num_channels].

    Args:
        model: The float32 model that the groups were found in.
        groups: What `find_channel_groups` returned.
        largest: Tensor to its largest |x| per channel, float64 [C]; layers that read another tensor are left out.
    """
    index = index_graph(model.graph)
    layers = {name for group in groups for name in group.producers}
    sums = {}
    for node in model.graph.node:
        if node.name in layers and node.op_type != "BatchNormalization" and node.input[0] in largest:
            weight, *bias = (np.abs(array_from_initializer(index.initializer[name])) for name in node.input[1:] if name)
            sums[node.name] = _sums(node, weight.astype(np.float64), largest[node.input[0]]) + sum(bias)
    return sums


def _sums(node: NodeProto, weight: NDArray[np.float64], peaks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum_j |W[o, j]| peaks[j] per output o; of a flattened input every place counts as its largest channel."""
    if node.op_type == "Gemm":
        rows = weight if attribute(node, "transB", 0) else weight.T
        of_inputs = peaks if len(peaks) == rows.shape[1] else np.full(rows.shape[1], peaks.max())
        products: NDArray[np.float64] = rows @ of_inputs
        return products
    num_groups = attribute(node, "group", 1)
    taps = weight.reshape(num_groups, weight.shape[0] // num_groups, weight.shape[1], -1).sum(axis=-1)
    sums: NDArray[np.float64] = np.einsum("goi,gi->go", taps, peaks.reshape(num_groups, -1)).reshape(-1)
    return sums


def scale_channels(model: ModelProto, factors: Mapping[ChannelGroup, Factors]) -> PassResult:
    """Return a copy in which every channel of every group is multiplied by its factor.

    The outputs stay the same up to float32 rounding of the scaled constants.

    Args:
        model: The float32 model that the groups were found in.
        factors: Group to factors, float64 [num_channels], > 0.
    """
    rows = {name: scale for group, scale in factors.items() for name in group.producers}
    columns = {name: scale for group, scale in factors.items() for name in group.consumers}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scaled: dict[str, NDArray[np.float32]] = {}
    for node in model.graph.node:
        for name, factor in _factors_of_constants(node, constants, rows.get(node.name), columns.get(node.name)):
            values = scaled[name] if name in scaled else array_from_initializer(constants[name])
            scaled[name] = (values * factor).astype(np.float32)
    # A constant written over stays in the message's memory as long as the message: so none is copied to be replaced.
    result = copy_without_constants(model, constants.keys())
    for tensor in model.graph.initializer:
        own = initializer_from_array(tensor.name, scaled[tensor.name]) if tensor.name in scaled else tensor
        result.graph.initializer.add().CopyFrom(own)
    return PassResult(result, len(factors))


def _factors_of_constants(
    node: NodeProto, constants: Mapping[str, TensorProto], rows: Factors | None, columns: Factors | None
) -> Iterator[tuple[str, Factors]]:
    """Yield each constant to multiply for output channel o to become rows[o] times as large, and input i be columns[i].

    A weight between two groups is multiplied once, in float64, and rounded once.
    """
    if rows is None and columns is None:
        return
    one = np.ones(1)
    rows, columns = one if rows is None else rows, one if columns is None else columns
    if node.op_type == "BatchNormalization":  # scale (x - mean) / std + bias
        yield node.input[1], rows / columns
        yield node.input[3], columns
    else:
        yield node.input[1], weight_factors(node, tuple(constants[node.input[1]].dims), rows, columns)
    if len(node.input) > 2 and node.input[2]:
        yield node.input[2], rows


def weight_factors(node: NodeProto, shape: tuple[int, ...], rows: Factors, columns: Factors) -> Factors:
    """Return rows[o] / columns[i] in a shape that multiplies the weight of a Conv or Gemm."""
    if node.op_type == "Gemm":  # [O, I] if transposed, else [I, O]
        transposed = attribute(node, "transB", 0) == 1
        return rows[:, np.newaxis] / columns if transposed else rows / columns[:, np.newaxis]
    num_groups = attribute(node, "group", 1)  # [O, I / groups, kH, kW]: output o reads the inputs of its group
    read = columns.reshape(num_groups, -1) if len(columns) > 1 else columns.reshape(1, 1)
    per_output = np.repeat(read, shape[0] // len(read), axis=0)
    return (rows[:, np.newaxis] / per_output).reshape(shape[0], -1, *[1] * (len(shape) - 2))
