"""Find the factors by which a quantized file's channels were scaled (`cross_layer_equalization`), from its constants.

A file whose channels were scaled computes the same with other intermediate tensors: channel c of a group is s[c] times
the reference's. To compare block by block, the reference is scaled alike. The factors are not stored, and the constants
that hold them may be broken, which is what the comparison is to find. So every group is asked several times, and the
median counts:

    weight  of each layer before: row o is s[o] times the reference's, its columns divided by the factors read
    bias    of each layer before: b[o] is s[o] times the reference's (bias correction moves it a little)

A row that is no multiple of the reference's (cosine below 0.9: transposed, overwritten) says nothing. Weights only
tell ratios along a chain of layers: a layer multiplied by 4 as a whole looks like factors of 4 in all groups behind it.
Biases are absolute, so where the median over a group's channels of bias against weight is off by more than 1.3, the
bias is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.diagnostics.block_subgraphs import OpenRuntime
from calibration.refinement.channel_groups import ChannelGroup, find_channel_groups
from calibration.refinement.cross_layer_equalization import Factors, weight_factors
from calibration.refinement.layer_hessian import weight_rows
from calibration.refinement.subgraph import constant_values

MIN_COSINE = 0.9
MIN_BIAS = 0.05
"""Of the largest |bias| of a layer: smaller ones say little about their factor, for what correction added to them."""

MIN_GAUGE = float(np.log(1.3))
_NUM_PASSES = 3

Constants = Mapping[str, NDArray[np.float64]]
_WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True, eq=False)
class LayerConstants:
    """Weight and bias (None: the layer has none) of one layer on both sides, float64, the candidate's dequantized."""

    node: NodeProto
    reference: tuple[NDArray[np.float64], NDArray[np.float64] | None]
    candidate: tuple[NDArray[np.float64], NDArray[np.float64] | None]


def layer_constants(
    reference: ModelProto, candidate: ModelProto, open_runtime: OpenRuntime
) -> dict[str, LayerConstants]:
    """Return the constants of every Conv, Gemm and MatMul that both sides have by the same name, in graph order."""
    theirs = {node.name: node for node in candidate.graph.node}
    nodes = [
        node
        for node in reference.graph.node
        if node.op_type in (*_WEIGHTED, "MatMul") and node.name in theirs and theirs[node.name].op_type == node.op_type
    ]
    values = [
        constant_values(model, [name for node in side for name in node.input[1:] if name], open_runtime)
        for model, side in ((reference, nodes), (candidate, [theirs[node.name] for node in nodes]))
    ]

    def pair(node: NodeProto, known: Constants) -> tuple[NDArray[np.float64], NDArray[np.float64] | None] | None:
        weight = known.get(node.input[1])
        bias = known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return None if weight is None else (weight, bias)

    layers = {}
    for node in nodes:
        ours, got = pair(node, values[0]), pair(theirs[node.name], values[1])
        if ours is not None and got is not None and ours[0].shape == got[0].shape:
            layers[node.name] = LayerConstants(node, ours, got)
    return layers


def with_reference(
    reference: ModelProto, layers: Mapping[str, LayerConstants], open_runtime: OpenRuntime
) -> dict[str, LayerConstants]:
    """Return the same layers beside another reference's constants, such as one whose channels are scaled."""
    nodes = {node.name: node for node in reference.graph.node if node.name in layers}
    values = constant_values(
        reference, [name for node in nodes.values() for name in node.input[1:] if name], open_runtime
    )
    return {
        name: LayerConstants(
            nodes[name],
            (values[nodes[name].input[1]], None if layer.reference[1] is None else values[nodes[name].input[2]]),
            layer.candidate,
        )
        for name, layer in layers.items()
    }


def recover_factors(reference: ModelProto, layers: Mapping[str, LayerConstants]) -> dict[ChannelGroup, Factors]:
    """Return the factors of every group that can be scaled, float64 [num_channels], > 0; ones where nothing tells."""
    groups = find_channel_groups(reference)
    read_by = {consumer: group for group in groups for consumer in group.consumers}
    factors: dict[ChannelGroup, Factors] = {}
    for _ in range(_NUM_PASSES):  # the second and third know the factors that every layer reads
        for group in groups:
            known = [
                layers[name]
                for name in group.producers
                if name in layers and (name not in read_by or read_by[name] in factors)
            ]
            estimates = [_estimates(layer, factors.get(read_by.get(layer.node.name))) for layer in known]  # type: ignore[arg-type]
            if estimates:
                factors[group] = _factors_of(estimates)
    return {group: factors.get(group, np.ones(group.num_channels)) for group in groups}


def _estimates(layer: LayerConstants, read: Factors | None) -> tuple[Factors, Factors]:
    """Return log factors by weight and by bias, float64 [O] each, NaN where they say nothing."""
    weight, got = layer.reference[0], layer.candidate[0]
    if read is not None:
        num_rows = weight.shape[0] if layer.node.op_type == "Conv" else weight_rows(layer.node, weight).shape[1]
        got = got / weight_factors(layer.node, weight.shape, np.ones(num_rows), read)
    rows, seen = (weight_rows(layer.node, side) for side in (weight, got))
    rows, seen = (side.reshape(-1, side.shape[-1]) for side in (rows, seen))
    products, squares, others = (rows * seen).sum(1), (rows * rows).sum(1), (seen * seen).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = products / np.sqrt(squares * others)
        by_weight = np.where(cosine > MIN_COSINE, np.log(products / squares), np.nan)
        by_bias = np.full(len(rows), np.nan)
        if layer.reference[1] is not None and layer.candidate[1] is not None:
            bias, moved = layer.reference[1], layer.candidate[1]
            large = np.abs(bias) >= MIN_BIAS * np.abs(bias).max(initial=0.0)
            by_bias = np.where(large & (bias * moved > 0), np.log(moved / bias), np.nan)
    return by_weight, by_bias


def _factors_of(estimates: list[tuple[Factors, Factors]]) -> Factors:
    by_weight, by_bias = (np.stack(side) for side in zip(*estimates, strict=True))
    differences = (by_bias - by_weight)[np.isfinite(by_bias) & np.isfinite(by_weight)]
    gauge = float(np.median(differences)) if differences.size else 0.0
    if abs(gauge) > MIN_GAUGE:
        by_weight = by_weight + gauge
    logs = _median(by_weight)
    logs = np.where(np.isfinite(logs), logs, _median(by_bias))
    typical = float(np.median(logs[np.isfinite(logs)])) if np.isfinite(logs).any() else 0.0
    factors: Factors = np.exp(np.where(np.isfinite(logs), logs, typical))
    return factors


def _median(stacked: Factors) -> Factors:
    """Return the median over the first axis without NaN; NaN where there is nothing else."""
    known = np.isfinite(stacked).any(axis=0)
    result = np.full(stacked.shape[1], np.nan)
    result[known] = np.nanmedian(stacked[:, known], axis=0)
    return result
