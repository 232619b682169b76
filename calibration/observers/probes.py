"""Nodes added to a model so that ranges are measured where the activations are: inside the session.

Of each tensor [n, C, ...] come out, instead of the tensor itself,

    maximum, minimum, total   float32 [n, C]   ReduceMax, ReduceMin, ReduceSum over each channel of each image
    sample                    float32 [m]      every k-th value of all images laid end to end

So a few kilobytes leave the session where the tensor has megabytes, the reductions run in the session's threads, and
on a GPU nothing else crosses the bus. The minimum is left out where the graph says that no value is negative. The total
is for one thing: NaN and Inf survive a sum, but not ReduceMax (ONNX Runtime 1.31 on a CPU returns the largest number).

The sample takes value g of image i where `(i * size + g) % k == 0`, with k odd and free of factors of the tensor's
size: all channels, rows and columns are visited alike, another set of places in each image, and the same ones however
the images are batched. Tensors whose sample would be all of them (k = 1) come out whole, and the model's input is at
hand anyway; NumPy does the same with those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from exporter.graph import onnx_graph

FIRST_IMAGE = "calibration.first_image"
"""Extra input of a probed model, int64 [1]: how many images came before this batch."""

_PREFIX = "calibration."
_NONNEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs"})
_KEEPS_SIGN = frozenset(
    {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Identity"}
)
"""Operators whose output is nonnegative where their first input is."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """How one tensor is observed.

    Attributes:
        tensor: Its name.
        is_nonnegative: No value can be below 0; the minimum is then not computed and taken as 0.
        samples_per_image: About how many values of each image enter the sample.
        shape: Of one image's tensor where it is reduced inside the session; None where it comes out as it is.
        whole: The tensor that has to be finite: itself, or what it is a part of (`rectified_sums`).
    """

    tensor: str
    is_nonnegative: bool
    samples_per_image: int
    shape: tuple[int, ...] | None
    whole: str


@dataclass(frozen=True, slots=True, eq=False)
class ProbedModel:
    """A model with probes.

    Attributes:
        model: Outputs what the probes need; takes `FIRST_IMAGE` beside its own input when `needs_first_image`.
        probes: One per tensor, in the order asked for.
        needs_first_image: Whether any tensor is sampled inside the session.
    """

    model: ModelProto
    probes: tuple[Probe, ...]
    needs_first_image: bool


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One tensor on one batch; it shares no memory with the session's outputs.

    Attributes:
        maximum: Exact, of each channel of each image, float32 [n, C].
        minimum: Likewise; zeros where the tensor cannot be negative.
        sample: Values of image i are `sample[ends[i - 1] : ends[i]]`; every `stride`-th of all values from `start` on.
        ends: int64 [n].
        is_finite: Whether all sums are finite: False for NaN and Inf, and where a sum overflows.
        size: Number of values of one image.
        start: Place of the first sampled value among all of the batch, laid end to end.
        stride: Distance of sampled values.
    """

    maximum: Array
    minimum: Array
    sample: Array
    ends: NDArray[np.int64]
    is_finite: bool
    size: int
    start: int
    stride: int

    def largest(self) -> Array:
        """Return the largest |x| of each channel, float32 [C]."""
        largest: Array = np.maximum(self.maximum.max(axis=0), -self.minimum.min(axis=0))
        return largest

    def scaled(self, factors: NDArray[np.float64]) -> Observation:
        """Return what would have been seen had channel c been `factors[c]` times what it was; float64 [C], > 0."""
        small = factors.astype(np.float32)
        rows = np.tile(small, len(self.maximum))  # one per channel of each image, as they lie end to end
        inner = self.size // len(small)
        ends = -(-(np.arange(len(rows) + 1) * inner - self.start) // self.stride)  # ceil: places below each row's end
        of_sample = np.repeat(rows, np.diff(np.maximum(ends, 0)))
        return replace(self, maximum=self.maximum * small, minimum=self.minimum * small, sample=self.sample * of_sample)


def sample_stride(shape: tuple[int, ...], samples_per_image: int) -> int:
    """Return k, the distance of sampled values: odd and coprime with the tensor's size, so that a few less come out."""
    size = math.prod(shape)
    stride = max(1, size // samples_per_image)
    while stride > 1 and (stride % 2 == 0 or math.gcd(stride, size) != 1):
        stride += 1
    return stride


def add_probes(
    model: ModelProto, tensors: Iterable[str], *, samples_per_image: int, whole: Mapping[str, str] | None = None
) -> ProbedModel:
    """Return a copy of `model` that outputs what is to be known of `tensors`, besides its own outputs.

    Args:
        model: Float32 model with one input, first axis the batch.
        tensors: Names of float32 tensors.
        samples_per_image: Values of each image and tensor in the sample, about.
        whole: Of tensors that are parts of others, those others: tensors of the same shape.
    """
    names = tuple(tensors)
    types = onnx_graph.complete_types(model, names)
    index = onnx_graph.index_graph(model.graph)
    parts = whole or {}
    probes = tuple(_probe(name, types, index, model, samples_per_image, whole=parts.get(name, name)) for name in names)
    result = onnx_graph.copy_model(model)
    inputs = {info.name for info in model.graph.input}
    _add_constants(result.graph)
    for probe in probes:
        if probe.shape is not None:
            _add_reductions(result, probe, len(probe.shape) + 1)
            _add_sample(result.graph, probe.tensor, probe.shape, probe.samples_per_image)
        elif probe.tensor not in inputs and probe.tensor not in index.outputs:
            for name in dict.fromkeys((probe.tensor, probe.whole)):
                result.graph.output.append(onnx.ValueInfoProto(name=name, type=types[probe.tensor]))
    sampled = any(probe.shape is not None for probe in probes)
    if sampled:
        result.graph.input.append(helper.make_tensor_value_info(FIRST_IMAGE, TensorProto.INT64, [1]))
    return ProbedModel(result, probes, sampled)


def observe(probe: Probe, outputs: Mapping[str, Array], first_image: int) -> Observation:
    """Return what one run, whose outputs and input are given by name, says about one tensor."""
    if probe.shape is None:
        return _observe_array(probe, outputs[probe.tensor], outputs[probe.whole], first_image)
    parts = {part: outputs[f"{_PREFIX}{probe.tensor}.{part}"] for part in ("maximum", "total", "sample")}
    maximum = parts["maximum"]
    minimum = np.zeros_like(maximum) if probe.is_nonnegative else outputs[f"{_PREFIX}{probe.tensor}.minimum"]
    is_finite = all(bool(np.isfinite(array).all()) for array in (maximum, minimum, parts["total"]))
    size, stride = math.prod(probe.shape), sample_stride(probe.shape, probe.samples_per_image)
    ends = _sample_ends(first_image, len(maximum), size, stride)
    start = -first_image * size % stride
    return Observation(maximum.copy(), minimum.copy(), parts["sample"].copy(), ends, is_finite, size, start, stride)


def _observe_array(probe: Probe, array: Array, whole: Array, first_image: int) -> Observation:
    channels = array.reshape(len(array), array.shape[1] if array.ndim > 1 else 1, -1)
    maximum = channels.max(axis=2)
    minimum = np.zeros_like(maximum) if probe.is_nonnegative else channels.min(axis=2)
    is_finite = bool(np.isfinite(maximum).all() and np.isfinite(minimum).all())  # NumPy hands NaN on
    is_finite = is_finite and (whole is array or bool(np.isfinite(whole).all()))
    size = channels[0].size
    stride = sample_stride(array.shape[1:], probe.samples_per_image)
    start = -first_image * size % stride
    sample = array.reshape(-1)[start::stride].copy()
    ends = _sample_ends(first_image, len(array), size, stride)
    return Observation(maximum, minimum, sample, ends, is_finite, size, start, stride)


def _sample_ends(first_image: int, num_images: int, size: int, stride: int) -> NDArray[np.int64]:
    """Return how many sampled places lie in images up to each of the batch, int64 [n]."""
    images = np.arange(first_image, first_image + num_images + 1, dtype=np.int64)
    before = -(-images * size // stride)  # ceil: the places 0, stride, 2 stride, ... below images * size
    ends: NDArray[np.int64] = before[1:] - before[0]
    return ends


def _probe(
    name: str,
    types: Mapping[str, onnx.TypeProto],
    index: onnx_graph.GraphIndex,
    model: ModelProto,
    samples_per_image: int,
    *,
    whole: str,
) -> Probe:
    dims = types[name].tensor_type.shape.dim
    shape = tuple(dim.dim_value for dim in dims[1:])
    is_nonnegative = _is_nonnegative(name, index)
    is_input = any(info.name == name for info in model.graph.input)
    comes_out = (
        is_input
        or len(shape) < 2
        or 0 in shape  # a size that is not fixed
        or sample_stride(shape, samples_per_image) == 1
    )
    return Probe(name, is_nonnegative, samples_per_image, None if comes_out else shape, whole)


def _is_nonnegative(tensor: str, index: onnx_graph.GraphIndex) -> bool:
    """Tell whether the graph alone shows that no value of `tensor` is below 0."""
    node = onnx_graph.maker_behind(tensor, index.producer, _KEEPS_SIGN)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = index.initializer.get(node.input[1]) if len(node.input) > 1 else None
        if low is None:
            return bool(onnx_graph.attribute(node, "min", -1.0) >= 0)
        return bool(onnx_graph.array_from_initializer(low) >= 0)
    return node.op_type in _NONNEGATIVE


def _add_constants(graph: GraphProto) -> None:
    for name, values in (("flat", [-1]), ("end", [np.iinfo(np.int64).max]), ("axis", [0])):
        graph.initializer.append(onnx_graph.initializer_from_array(_PREFIX + name, np.array(values, np.int64)))


def _constant(graph: GraphProto, name: str, values: list[int]) -> str:
    """Return a constant's name, adding it when it is new."""
    full = f"{_PREFIX}{name}"
    if all(tensor.name != full for tensor in graph.initializer):
        graph.initializer.append(onnx_graph.initializer_from_array(full, np.array(values, np.int64)))
    return full


def _add_reductions(model: ModelProto, probe: Probe, rank: int) -> None:
    parts = {"maximum": "ReduceMax", "total": "ReduceSum"} | ({} if probe.is_nonnegative else {"minimum": "ReduceMin"})
    for part, operator in parts.items():
        tensor = probe.whole if part == "total" else probe.tensor
        _add_reduction(model, operator, tensor, f"{_PREFIX}{probe.tensor}.{part}", range(2, rank))


def _add_reduction(model: ModelProto, operator: str, tensor: str, output: str, axes: Sequence[int]) -> None:
    """Reduce a tensor to [n, C], a new output."""
    graph = model.graph
    # Axes became an input with opset 13 (ReduceSum) and 18 (the others).
    if onnx_graph.opset_of(model) >= (13 if operator == "ReduceSum" else 18):
        inputs = [tensor, _constant(graph, f"axes{'.'.join(map(str, axes))}", list(axes))]
        graph.node.append(helper.make_node(operator, inputs, [output], keepdims=0, name=output))
    else:
        graph.node.append(helper.make_node(operator, [tensor], [output], axes=list(axes), keepdims=0, name=output))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None]))


def _add_sample(graph: GraphProto, tensor: str, shape: tuple[int, ...], samples_per_image: int) -> None:
    """Lay the tensor flat and take every stride-th value from where the images before left off."""
    size, stride = math.prod(shape), sample_stride(shape, samples_per_image)
    start = f"{_PREFIX}start.{size}.{stride}"
    step = _constant(graph, f"stride.{stride}", [stride])
    if all(node.output[0] != start for node in graph.node):
        minus_size = _constant(graph, f"minus.{size}", [-size])
        graph.node.append(helper.make_node("Mul", [FIRST_IMAGE, minus_size], [f"{start}.offset"], name=f"{start}.mul"))
        graph.node.append(helper.make_node("Mod", [f"{start}.offset", step], [start], name=start))  # in [0, stride)
    flat, sample = f"{_PREFIX}{tensor}.flat", f"{_PREFIX}{tensor}.sample"
    graph.node.append(helper.make_node("Reshape", [tensor, f"{_PREFIX}flat"], [flat], name=flat))
    bounds = [start, f"{_PREFIX}end", f"{_PREFIX}axis", step]
    graph.node.append(helper.make_node("Slice", [flat, *bounds], [sample], name=sample))
    graph.output.append(helper.make_tensor_value_info(sample, TensorProto.FLOAT, [None]))
