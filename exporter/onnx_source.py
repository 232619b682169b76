"""An existing `.onnx` file as MODEL: refuse what cannot be quantized honestly, tidy the rest like a traced graph.

What `torch.onnx.export` (either exporter) and other converters write of an image classifier is accepted: one float32
input [N, 3, H, W], one output [N, classes], opset 11 to the newest that onnx can convert. The reference of every
comparison is then the file itself, run by ONNX Runtime as it came.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from exporter.canonical_ops import canonical_ops
from exporter.errors import ExportError, OnnxFileError
from exporter.fold_batchnorm import FoldedBatchNorm, FoldReport, KeptBatchNorm
from exporter.fold_constants import fold_constants
from exporter.graph import (
    array_from_initializer,
    attribute,
    copy_model,
    index_graph,
    initializer_from_array,
    opset_of,
)
from exporter.opset import BATCH_AXIS, TRACE_OPSET, checked, convert_opset
from exporter.tidy_graph import tidy_graph
from runtimes.plain_file import read_plain_file

MIN_SOURCE_OPSET = 11
"""Older files lack the operators that exporters of the last years write, and onnx converts them only in part."""

MAX_FILE_BYTES = 2**31 - 1
"""What a protobuf message can have. Source: protobuf.dev, Proto Limits."""

MAX_TENSOR_BYTES = 1 << 30
"""Of one tensor, at batch 1: sixteen times the largest one of a ResNet-152 at 1024 pixels. Shapes in a file are data
from outside, and what they ask for must not decide how much memory is taken."""

_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
_KNOWN_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True, eq=False)
class OnnxSource:
    """A file that passed every check.

    Attributes:
        model: As it was written, external data loaded; initializers are no inputs, the batch may be fixed.
        path: The file.
        sha256: Of the file's bytes.
        opset: As it was written.
        input_name: Its one input.
        output_name: Its one output.
        input_size: Height and width in pixels, None where the file leaves them open.
        batch: The batch size it is fixed to, or None.
        num_classes: Width of the output.
        num_parameters: Numbers in its float constants.
    """

    model: ModelProto
    path: Path
    sha256: str
    opset: int
    input_name: str
    output_name: str
    input_size: tuple[int, int] | None
    batch: int | None
    num_classes: int
    num_parameters: int


def read_onnx(path: Path) -> OnnxSource:
    """Read and check a file.

    Raises:
        OnnxFileError: If it is no whole ONNX file, lacks its external data, holds another opset or other domains, is
            quantized already, trains, or is no classifier of one float32 image; the message says which.
    """
    model, sha256 = _read(path)
    opset = _check_opset(model, path)
    _check_constants(model, path)
    _check_nodes(model, path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in initializers]
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # IR version 3 lists weights as inputs too
    input_size, batch = _check_input(inputs, path)
    output_name, num_classes = _check_output(model, path)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    return OnnxSource(
        model=model,
        path=path,
        sha256=sha256,
        opset=opset,
        input_name=inputs[0].name,
        output_name=output_name,
        input_size=input_size,
        batch=batch,
        num_classes=num_classes,
        num_parameters=sum(array_from_initializer(tensor).size for tensor in floats),
    )


def _read(path: Path) -> tuple[ModelProto, str]:
    try:
        content = read_plain_file(path, MAX_FILE_BYTES)
    except OSError as err:
        raise OnnxFileError(f"{path} cannot be read: {err.strerror}") from err
    try:
        model = ModelProto.FromString(content)
    except Exception as err:  # DecodeError of protobuf, which is onnx's dependency, not ours
        raise OnnxFileError(f"{path} is not an ONNX file, or is truncated ({len(content):,} bytes): {err}") from err
    if not model.graph.node or not model.ir_version:
        raise OnnxFileError(f"{path} is not an ONNX file: it holds no graph ({len(content):,} bytes)")
    _load_external_data(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as err:  # the checker raises unrelated types
        raise OnnxFileError(f"{path} does not pass onnx.checker: {err}") from err
    return model, hashlib.sha256(content).hexdigest()


def _load_external_data(model: ModelProto, path: Path) -> None:
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    if not outside:
        return
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as err:  # a missing file, one that is too short, a path that leaves the folder: several types
        locations = sorted(
            {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
        )
        raise OnnxFileError(
            f"{path} keeps {len(outside)} weights in {', '.join(locations)}, which cannot be read: {err}; "
            "copy that file beside it under its old name"
        ) from err


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
            f"{path}: got opset {opset}, expected {MIN_SOURCE_OPSET} to {newest} (onnx {onnx.__version__}); export it "
            "anew, with opset 17 or 20"
        )
    return opset


def _check_nodes(model: ModelProto, path: Path) -> None:
    kinds = Counter((node.domain, node.op_type) for node in model.graph.node)
    if quantized := sorted(kind for _, kind in kinds if kind in _QUANTIZED or kind.startswith("QLinear")):
        raise OnnxFileError(f"{path} is quantized already (it holds {quantized[0]}); give the float32 file")
    if foreign := sorted((domain, kind) for domain, kind in kinds if domain not in ("", "ai.onnx")):
        domain, kind = foreign[0]
        raise OnnxFileError(
            f"{path}: operator {kind} of domain {domain!r} is not ONNX's own; export it without optimizations "
            "for one runtime"
        )
    if control := sorted(kind for _, kind in kinds if kind in _CONTROL_FLOW):
        raise OnnxFileError(f"{path} holds control flow ({control[0]}), which no engine can quantize; export it anew")
    for node in model.graph.node:
        training = attribute(node, "training_mode", 0)
        if node.op_type == "BatchNormalization" and (training or len([name for name in node.output if name]) > 1):
            raise OnnxFileError(
                f"{path}: {node.name or node.output[0]!r} normalizes by the batch, as in training; call model.eval() "
                "before exporting"
            )
    if half := [t.name for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)]:
        raise OnnxFileError(f"{path}: {len(half)} weights, first {half[0]!r}, are not float32; give the float32 file")


def _check_input(inputs: list[Any], path: Path) -> tuple[tuple[int, int] | None, int | None]:
    """Return the image size and the batch, each None where the file leaves it open."""
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
        raise OnnxFileError(f"{path}: input {info.name!r} is {got}, expected float32{hint}")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = f"[{', '.join('N' if size is None else str(size) for size in dims)}]"
    if len(dims) != 4:
        raise OnnxFileError(f"{path}: input {info.name!r} has shape {shown}, expected four axes, [N, 3, H, W]")
    if dims[1] != 3:
        layout = "; it takes NHWC, export it as NCHW" if dims[3] == 3 else ""
        raise OnnxFileError(f"{path}: input {info.name!r} has shape {shown}, expected [N, 3, H, W]{layout}")
    height, width = dims[2], dims[3]
    return (None if height is None or width is None else (height, width)), dims[0] or None


def _check_output(model: ModelProto, path: Path) -> tuple[str, int]:
    if len(model.graph.output) != 1:
        names = ", ".join(info.name for info in model.graph.output)
        raise OnnxFileError(f"{path}: got {len(model.graph.output)} outputs ({names}), expected one, the logits")
    (info,) = model.graph.output
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as err:  # inference raises unrelated types
        raise OnnxFileError(f"{path}: shapes contradict each other: {err}") from err
    _check_sizes(typed, path)
    kind = typed.graph.output[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(dims) != 2 or not dims[1]:
        shown = [size or "N" for size in dims]
        raise OnnxFileError(f"{path}: output {info.name!r} has shape {shown}, expected float32 [N, classes]")
    return info.name, dims[1]


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


def tidied_onnx(source: OnnxSource, *, input_size: tuple[int, int], opset: int) -> tuple[ModelProto, FoldReport]:
    """Return the file's graph in the shape that `exporter.trace` gives: batch symbolic, BatchNorm folded, checked.

    Args:
        source: A file as `read_onnx` gives it; unchanged.
        input_size: Height and width of the images, fixed in the result.
        opset: The opset of the result.

    Raises:
        ExportError: If the opset conversion or the checker fails, or the batch cannot be made symbolic.
        WeightsError: If folding gives a weight that is not finite.
    """
    model = copy_model(source.model)
    _name_nodes(model)
    model = fold_constants(model).model
    _free_batch(model, source, input_size)
    model.ir_version = max(model.ir_version, 8)
    converted = convert_opset(model, TRACE_OPSET)
    try:
        tidy = tidy_graph(canonical_ops(converted).model)  # types first: they make more nodes constant
    except onnx.shape_inference.InferenceError as err:
        raise ExportError(f"{source.path}: the shapes do not fit images of {input_size}: {err}") from err
    result = convert_opset(tidy.model, opset)
    result.producer_name = "resnet-export"
    del result.metadata_props[:]
    report = FoldReport(
        tuple(FoldedBatchNorm(*pair) for pair in tidy.folds.folded),
        tuple(KeptBatchNorm(*pair) for pair in tidy.folds.kept),
    )
    return checked(result), report


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, in place: its first output's, where it has none or shares it."""
    counts = Counter(node.name for node in model.graph.node)
    taken = set(counts)
    for node in model.graph.node:
        if node.name and counts[node.name] == 1:
            continue
        name = base = next((output for output in node.output if output), node.op_type)
        number = 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        node.name = name


def _free_batch(model: ModelProto, source: OnnxSource, input_size: tuple[int, int]) -> None:
    """Call the batch axis `batch` and fix the image size, in place; a Reshape to the fixed batch keeps it instead."""
    graph = model.graph
    index = index_graph(graph)
    for node in graph.node if source.batch is not None else ():
        target = index.initializer.get(node.input[1]) if node.op_type == "Reshape" else None
        sizes = [] if target is None else array_from_initializer(target).tolist()
        if sizes and sizes[0] == source.batch:
            _take_batch_from_input(graph, node, [int(size) for size in sizes])
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = BATCH_AXIS
    dims[2].dim_value, dims[3].dim_value = input_size
    del graph.value_info[:], graph.output[:]
    shape = [BATCH_AXIS, source.num_classes]
    graph.output.append(onnx.helper.make_tensor_value_info(source.output_name, TensorProto.FLOAT, shape))


def _take_batch_from_input(graph: GraphProto, reshape: NodeProto, sizes: list[int]) -> None:
    """Let a Reshape to a fixed batch keep whatever batch comes in, in place: -1 where that is free, else 0 (copy)."""
    if -1 not in sizes[1:]:
        sizes[0] = -1
    elif attribute(reshape, "allowzero", 0) and 0 in sizes[1:]:
        return  # a size of 0 really; the checks that follow tell
    else:
        sizes[0] = 0
        kept = [entry for entry in reshape.attribute if entry.name != "allowzero"]
        del reshape.attribute[:]
        reshape.attribute.extend(kept)
    name = f"{reshape.name}.shape"
    graph.initializer.append(initializer_from_array(name, np.asarray(sizes, np.int64)))
    reshape.input[1] = name
