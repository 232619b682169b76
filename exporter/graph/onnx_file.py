"""Read an existing `.onnx` file as MODEL, and refuse what cannot be quantized honestly.

What `torch.onnx.export` (either exporter) and other converters write of an image classifier is accepted: one float32
image as input ([N, C, H, W] or [N, H, W, C]), logits or feature maps as output, opset 7 to the newest that onnx can
convert. The reference of every comparison is then the file itself, run by ONNX Runtime as it came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from exporter.errors import OnnxFileError
from exporter.graph.feature_ends import ends_in_features
from exporter.graph.invalid_model import complete, names_two_opsets, why_invalid
from exporter.graph.onnx_graph import (
    STANDARD_DOMAINS,
    array_from_initializer,
    attribute,
    name_nodes,
    opset_of,
    refill,
)
from exporter.graph.read_model import read_model_and_hash
from exporter.graph.unstable_nodes import unstable_nodes
from runtimes.counted import counted
from runtimes.preprocessing.transform import MAX_CHANNELS

MIN_SOURCE_OPSET = 7
"""The oldest that ONNX Runtime runs, so that a file can be compared with what is made of it."""

MAX_CHANNELS_LAST = 4
"""Of a file that says nothing by a Transpose: a last axis of 1, 3 or 4 behind a larger second one is the channels."""

MAX_TENSOR_BYTES = 1 << 30
"""Of one tensor, at batch 1: sixteen times the largest one of a ResNet-152 at 1024 pixels. Shapes in a file are data
from outside, and what they ask for must not decide how much memory is taken."""

FROM_FLOAT32 = (
    "export it from the float32 model (model.float() before torch.onnx.export): FP16 and INT8 are made of that here, "
    "with --fp16 and --int8, and compared with it"
)
"""What to do with a file of another type of numbers: its own answers are rounded, and no reference for others."""

_QUANTIZED = ("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinear", "QuantizeLinear")
"""How the names of operators begin that compute on integers, or quantize."""
_KNOWN_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True, eq=False)
class OnnxSource:
    """A file that passed every check.

    Attributes:
        model: As it was written, external data loaded; initializers are no inputs, the batch may be fixed.
        output_shapes: Sizes of each behind the batch, None where the file leaves them open.
        input_size: Height and width in pixels, None where the file leaves them open.
        batch: The batch size it is fixed to, or None.
        num_classes: Width of the logits, or channels of the first output.
        gives_logits: Whether its output is one of [N, classes].
        is_features: Whether its output is one of [N, C] that no classifier made.
    """

    model: ModelProto
    path: Path
    sha256: str
    opset: int
    output_names: tuple[str, ...]
    output_shapes: tuple[tuple[int | None, ...], ...]
    input_size: tuple[int, int] | None
    batch: int | None
    num_classes: int
    num_parameters: int
    channels: int = 3
    is_nhwc: bool = False
    gives_logits: bool = True
    is_features: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_onnx(path: Path, outputs: tuple[str, ...] = ()) -> OnnxSource:
    """Read and check a file; of several outputs those that are wanted.

    Raises:
        OnnxFileError: If it is no whole ONNX file, lacks its external data, holds another opset or other domains, is
            quantized already, trains, or is no classifier of one float32 image; the message says which.
    """
    model, sha256 = _read(path)
    open_unknown_axes(model.graph)
    name_nodes(model)  # ONNX Runtime refuses a name that two nodes have
    opset = _check_opset(model, path)
    _check_constants(model, path)
    check_nodes(model, path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in initializers]
    refill(model.graph.input, inputs)  # IR version 3 lists weights as inputs too, and no other version knows them
    model.ir_version = max(model.ir_version, 4)
    image = _check_input(model, inputs, path)
    _keep_outputs(model, outputs, path)
    shapes = _output_shapes(model, path)
    gives_logits = len(shapes) == 1 and len(shapes[0]) == 1 and shapes[0][0] is not None
    is_features = gives_logits and ends_in_features(model)
    given = [entry.t for node in model.graph.node if node.op_type == "Constant" for entry in node.attribute]
    floats = [tensor for tensor in (*model.graph.initializer, *given) if tensor.data_type == TensorProto.FLOAT]
    return OnnxSource(
        model=model,
        path=path,
        sha256=sha256,
        opset=opset,
        output_names=tuple(info.name for info in model.graph.output),
        output_shapes=shapes,
        input_size=image.size,
        batch=image.batch,
        num_classes=shapes[0][0] or 1,
        num_parameters=sum(array_from_initializer(tensor).size for tensor in floats),
        channels=image.channels,
        is_nhwc=image.is_nhwc,
        gives_logits=gives_logits and not is_features,
        is_features=is_features,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _read(path: Path) -> tuple[ModelProto, str]:
    model, sha256 = read_model_and_hash(path)
    complete(model)
    try:
        onnx.checker.check_model(model)
    except Exception as err:  # the checker raises unrelated types
        raise OnnxFileError(f"{path} is no valid ONNX file: {why_invalid(model, str(err))}") from err
    if names_two_opsets(model):  # which the checker takes
        raise OnnxFileError(f"{path} is no valid ONNX file: {why_invalid(model, '')}")
    if own := [function.name for function in model.functions if function.domain in STANDARD_DOMAINS]:
        raise OnnxFileError(
            f"{path} says itself what {own[0]} of ONNX's own operators computes, which readers follow or not; give the "
            "function a domain of its own, or export it anew"
        )
    if model.graph.sparse_initializer:
        raise OnnxFileError(
            f"{path} stores {counted(len(model.graph.sparse_initializer), 'weight')} as sparse tensors, which engines "
            "do not read; store them as ordinary ones, or export it anew"
        )
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    return model, sha256


def open_unknown_axes(graph: GraphProto) -> None:
    """Leave axes open, in place, that some exporters write as -1 or 0; ONNX Runtime takes any size there too."""
    constants = {tensor.name for tensor in graph.initializer}
    ends = [info for info in (*graph.input, *graph.output) if info.name not in constants]
    for least, infos in ((1, ends), (0, graph.value_info)):  # between them a size of 0 may be one
        for info in infos:
            for dim in info.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < least:
                    dim.ClearField("dim_value")


def _check_constants(model: ModelProto, path: Path) -> None:
    """Read every constant once: the checker accepts data that does not fill its shape."""
    attributes = [entry for node in model.graph.node for entry in node.attribute]
    inner = [tensor for entry in attributes for tensor in (*entry.tensors, *([entry.t] if entry.HasField("t") else []))]
    for tensor in (*model.graph.initializer, *inner):
        try:
            array_from_initializer(tensor)
        except Exception as err:  # to_array raises unrelated types, by what does not fit
            raise OnnxFileError(
                f"{path}: constant {tensor.name!r} of shape {list(tensor.dims)} cannot be read: {err}; the file is "
                "damaged, copy it again or export it anew"
            ) from err


def _check_opset(model: ModelProto, path: Path) -> int:
    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_SOURCE_OPSET <= opset <= newest:
        raise OnnxFileError(
            f"{path}: got opset {opset}, expected {MIN_SOURCE_OPSET} to {newest} (what onnx "
            f"{onnx.__version__} and ONNX Runtime read); export it anew, with opset 17 or 20"
        )
    return opset


def check_nodes(model: ModelProto, path: Path | str) -> None:
    """Raise an OnnxFileError where a graph, called `path`, computes what is not float32, not ONNX's, or not stable."""
    kinds = Counter((node.domain, node.op_type) for node in model.graph.node)
    if quantized := sorted(kind for _, kind in kinds if kind.startswith(_QUANTIZED)):
        raise OnnxFileError(f"{path} is quantized already (it holds {quantized[0]}); give the float32 file")
    if foreign := sorted((domain, kind) for domain, kind in kinds if domain not in STANDARD_DOMAINS):
        domain, kind = foreign[0]
        raise OnnxFileError(
            f"{path}: operator {kind} of domain {domain!r} is not ONNX's own; export it without optimizations "
            "for one runtime"
        )
    if control := sorted(kind for _, kind in kinds if kind in _CONTROL_FLOW):
        raise OnnxFileError(f"{path} holds control flow ({control[0]}), which no engine can quantize; export it anew")
    for node, what in unstable_nodes(model.graph):
        raise OnnxFileError(
            f"{path}: {node.name or node.output[0]!r} {what}; call model.eval() before exporting, so that a picture "
            "gets one answer"
        )
    if half := _narrow_weights(model.graph):
        kind = TensorProto.DataType.Name(half[0].data_type).lower()
        raise OnnxFileError(
            f"{path}: got {counted(len(half), 'weight')} of {kind}, first {half[0].name!r}, expected float32; "
            f"{FROM_FLOAT32}"
        )


def _narrow_weights(graph: GraphProto) -> list[TensorProto]:
    """Return the constants of 16 bits that the graph computes with: not those that it makes float32 first."""
    narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    given = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in narrow}
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None and value.data_type in narrow:
            given[node.output[0]] = TensorProto(name=node.output[0], data_type=value.data_type)
    computed = {
        name
        for node in graph.node
        if not (node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT)
        for name in node.input
    }
    return [tensor for name, tensor in given.items() if name in computed]


@dataclass(frozen=True, slots=True)
class _Image:
    size: tuple[int, int] | None
    batch: int | None
    channels: int
    is_nhwc: bool


def _check_input(model: ModelProto, inputs: list[Any], path: Path) -> _Image:
    """Return what kind of image the file takes; size and batch are None where the file leaves them open."""
    if len(inputs) != 1:
        names = ", ".join(info.name for info in inputs) or "none"
        raise OnnxFileError(f"{path}: got {len(inputs)} inputs ({names}), expected one, an image")
    (info,) = inputs
    kind = info.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        got = TensorProto.DataType.Name(kind.elem_type).lower()
        hint = (
            "; --input uint8 adds the cast and the normalization later" if kind.elem_type == TensorProto.UINT8 else ""
        )
        if kind.elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            hint = f"; {FROM_FLOAT32}"
        raise OnnxFileError(f"{path}: input {info.name!r} is {got}, expected float32{hint}")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    named = [str(size or dim.dim_param or "?") for size, dim in zip(dims, kind.shape.dim, strict=True)]
    shown = f"[{', '.join(named)}]"
    if len(dims) != 4:
        video = "; five are a video, which is not taken" if len(dims) == 5 else ""
        raise OnnxFileError(
            f"{path}: input {info.name!r} has shape {shown}, expected four axes, [N, C, H, W] or [N, H, W, C]{video}"
        )
    is_nhwc = _is_nhwc(model, info.name, dims)
    channels = dims[3] if is_nhwc else dims[1]
    if channels is None or channels > MAX_CHANNELS:
        raise OnnxFileError(
            f"{path}: input {info.name!r} has shape {shown}, expected a fixed number of channels, [N, 3, H, W] or "
            "[N, H, W, 3]; export it with fixed channels"
        )
    if not is_nhwc:
        _check_first_convolutions(model, info.name, channels, f"{path}: input {info.name!r} has shape {shown}")
    height, width = dims[1:3] if is_nhwc else dims[2:]
    size = None if height is None or width is None else (height, width)
    return _Image(size, dims[0] or None, channels, is_nhwc)


def _check_first_convolutions(model: ModelProto, name: str, channels: int, what: str) -> None:
    """Raise if a convolution that reads the image takes another number of channels than it has."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" and node.input[0] == name else None
        if weight is not None and len(weight.dims) > 1:
            taken = weight.dims[1] * attribute(node, "group", 1)
            if taken != channels:
                raise OnnxFileError(
                    f"{what}, read as [N, C, H, W] of {channels} channels, but {node.name or node.output[0]!r} takes "
                    f"{taken}: its axes are others (such as [C, H, W, N]), or contradict each other; export it anew"
                )


def _is_nhwc(model: ModelProto, name: str, dims: list[int | None]) -> bool:
    """Tell whether the channels are last: the file turns them first, or the sizes say so."""
    readers = [node for node in model.graph.node if name in node.input]
    if readers and all(
        node.op_type == "Transpose" and list(attribute(node, "perm", [])) == [0, 3, 1, 2] for node in readers
    ):
        return True
    first, last = dims[1], dims[3]
    plausible = (1, 3, MAX_CHANNELS_LAST)
    return last in plausible and first not in plausible and not any(node.op_type == "Conv" for node in readers)


def _keep_outputs(model: ModelProto, wanted: tuple[str, ...], path: Path) -> None:
    """Leave only the outputs that were asked for, in that order, in place."""
    found = {info.name: info for info in model.graph.output}
    if missing := [name for name in wanted if name not in found]:
        raise OnnxFileError(f"{path}: it has no output {missing[0]!r}; it has {', '.join(found)}")
    if not wanted and len(found) > 1:
        raise OnnxFileError(
            f"{path}: got {len(found)} outputs ({', '.join(found)}), expected one, the logits; say which with "
            "--outputs NAME, or several as --outputs A,B to export them as tensors"
        )
    if not found:
        raise OnnxFileError(f"{path}: it has no output; expected one, the logits")
    refill(model.graph.output, [found[name] for name in wanted or found])


def _output_shapes(model: ModelProto, path: Path) -> tuple[tuple[int | None, ...], ...]:
    """Return the sizes of each output behind the batch axis."""
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as err:  # inference raises unrelated types
        raise OnnxFileError(f"{path}: shapes contradict each other: {err}") from err
    _check_sizes(typed, path)
    shapes = []
    for info in typed.graph.output:
        kind = info.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        if kind.elem_type != TensorProto.FLOAT or len(dims) < 2 or (len(dims) == 2 and not dims[1]):
            shown = f"[{', '.join(str(size or 'N') for size in dims)}]"
            name = TensorProto.DataType.Name(kind.elem_type).lower()
            got = f"has shape {shown}" if kind.elem_type == TensorProto.FLOAT else f"is {name} {shown}"
            raise OnnxFileError(f"{path}: output {info.name!r} {got}, expected float32 [N, classes] or [N, C, ...]")
        shapes.append(tuple(dims[1:]))
    return tuple(shapes)


def _check_sizes(typed: ModelProto, path: Path) -> None:
    """Refuse tensors that are larger than any of a network for images; unknown axes count as 1."""
    for info in (*typed.graph.input, *typed.graph.value_info, *typed.graph.output):
        kind = info.type.tensor_type
        if kind.elem_type not in _KNOWN_TYPES:
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
        num_bytes = math.prod(sizes) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        if num_bytes > MAX_TENSOR_BYTES or min(sizes, default=1) < 0:
            raise OnnxFileError(
                f"{path}: tensor {info.name!r} would have shape {sizes}, {num_bytes:,} bytes, expected at most "
                f"{MAX_TENSOR_BYTES:,}; no network for images needs that"
            )
