"""Choose each tensor's range by what reaches the logits: the method `auto`.

The mean squared error of a tensor says what quantization does to it, not what the layers behind it make of that. So the
INT8 model is run on a few images with one range changed at a time, and a candidate is kept where it brings the logits
nearer to those of the float model. Where biases will be corrected afterwards, only what correction cannot mend counts:
the error without its mean over the images. Images decide by chance too: a candidate must win on both halves of them, by
more than `MIN_GAIN`. What was gained on three networks, and that it is not the default: docs/int8.md.

Tensor by tensor in graph order, each with the ranges chosen before it: one round of a coordinate search that starts at
the least error of each tensor. That ranges be settled by the network's loss is from Nahshan et al. 2019,
arXiv:1911.07190; the loss here is the logits' error, and the search is simpler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from calibration.methods.builtin_methods import CANDIDATES
from calibration.methods.method import describe
from calibration.placement.for_tensorrt import Placement
from calibration.qdq.insert_qdq import ZERO_POINT, QuantizedModel, insert_qdq
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from calibration.refinement.layerwise_walk import OpenRuntime
from exporter.graph.onnx_graph import array_from_initializer, copy_model, initializer_from_array, replace_nodes
from runtimes.protocol import Runtime

MIN_GAIN = 0.05
"""Share by which the squared error of the logits must fall, 0.2 dB: less is within what other images would give."""

SAME = 0.01
"""Scales nearer than this are not tried: 1 % of a step is 0.1 dB of that tensor's noise."""

Images = NDArray[np.float32]
Groups = tuple[tuple[str, ...], ...]
TrackTensors = Callable[[Groups, int], Iterable[tuple[str, ...]]]
"""Wraps an iterable of known length, such as `Terminal.track`."""


def choose_ranges(
    model: ModelProto,
    table: CalibrationTable,
    sample: Sequence[Images],
    *,
    open_exact: OpenRuntime,
    corrects_biases: bool = False,
    track: TrackTensors | None = None,
) -> CalibrationTable:
    """Return the table with the chosen ranges, what each is from, and no candidates.

    Args:
        model: The float model that the table is of.
        table: Ranges, and `candidates` for them.
        sample: Images to judge on, float32 [n, C, H, W] each. With fewer than two images nothing is chosen.
        open_exact: Opens a model so that Q/DQ is computed as written.
        corrects_biases: Leave the mean error of each logit out of account.
        track: Wraps the walk through the tensors.
    """
    quantized = insert_qdq(model, table)
    groups = _groups(quantized.placement)
    start = str(describe(CANDIDATES[0])["name"])
    ranges, chosen = dict(table.ranges), dict.fromkeys(table.ranges, start)
    with open_exact(model) as runtime:
        expected = _logits(runtime, sample, {})
    with open_exact(_with_free_ranges(quantized)) as runtime:

        def errors_of(ranges: Mapping[str, TensorRange]) -> NDArray[np.float64]:
            errors = expected - _logits(runtime, sample, _inputs(ranges, runtime))
            return _half_sums(np.square(errors - errors.mean(axis=0) if corrects_biases else errors))

        best = errors_of(ranges)
        for group in groups if track is None else track(groups, len(groups)):
            for word, others in table.candidates.items():
                changed = {name: others[name] for name in group}
                if not _differ(changed, ranges):
                    continue
                tried = {**ranges, **changed}
                errors = errors_of(tried)
                if (errors < best * (1 - MIN_GAIN)).all():
                    best, ranges = errors, tried
                    chosen.update(dict.fromkeys(group, word))
    return replace(table, ranges=ranges, chosen=chosen, candidates={})


def _groups(placement: Placement) -> Groups:
    """Return the quantized tensors, those that must have one range together, in graph order."""
    leader = {name: group[0] for group in placement.shared_scales for name in group}
    groups: dict[str, list[str]] = {}
    for name in placement.activations:
        source = placement.same_range.get(name, name)
        groups.setdefault(leader.get(source, source), []).append(name)
    return tuple(map(tuple, groups.values()))


def _with_free_ranges(quantized: QuantizedModel) -> ModelProto:
    """Return a copy that takes scale, and zero point where there is one per tensor, of each activation as inputs.

    An INT32 bias holds the scale of its layer's input; it becomes the float numbers it stands for.
    """
    result = copy_model(quantized.model)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for name in quantized.placement.activations:
        graph.input.append(helper.make_tensor_value_info(f"{name}.scale", TensorProto.FLOAT, []))
        if f"{name}.{ZERO_POINT}" in constants:
            graph.input.append(helper.make_tensor_value_info(f"{name}.{ZERO_POINT}", TensorProto.UINT8, []))
    free = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in free]
    biases = {bias.name for bias in quantized.placement.biases}
    restored = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in biases]
    for node in restored:
        values, scale = (array_from_initializer(constants[name]) for name in node.input[:2])
        kept.append(initializer_from_array(node.output[0], (values * scale.astype(np.float64)).astype(np.float32)))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    dropped = {node.name for node in restored}
    replace_nodes(graph, [node for node in graph.node if node.name not in dropped])
    return result


def _inputs(ranges: Mapping[str, TensorRange], runtime: Runtime) -> dict[str, NDArray[np.generic]]:
    """Return the inputs of a model with free ranges, but for the images."""
    inputs: dict[str, NDArray[np.generic]] = {}
    for name, kept in ranges.items():
        if f"{name}.scale" in runtime.input_specs:
            inputs[f"{name}.scale"] = np.asarray(kept.scale, np.float32)
        if f"{name}.{ZERO_POINT}" in runtime.input_specs:
            inputs[f"{name}.{ZERO_POINT}"] = np.asarray(kept.zero_point, np.uint8)
    return inputs


def _logits(
    runtime: Runtime, sample: Sequence[Images], ranges: Mapping[str, NDArray[np.generic]]
) -> NDArray[np.float64]:
    """Return the model's outputs on all images, flat, float64 [n, values]."""
    image_input = next(name for name in runtime.input_specs if name not in ranges)
    found = []
    for images in sample:
        outputs = runtime.run({image_input: images, **ranges})
        found.append(np.concatenate([array.reshape(len(images), -1) for array in outputs.values()], axis=1))
    return np.concatenate(found).astype(np.float64)


def _half_sums(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums over the even and over the odd images, float64 [2]; zeros where a half has none."""
    return np.array([squares[::2].sum(), squares[1::2].sum()]) if len(squares) > 1 else np.zeros(2)


def _differ(changed: Mapping[str, TensorRange], ranges: Mapping[str, TensorRange]) -> bool:
    return any(
        abs(new.scale / ranges[name].scale - 1) > SAME or new.zero_point != ranges[name].zero_point
        for name, new in changed.items()
    )
