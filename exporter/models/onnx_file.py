"""Read an existing `.onnx` file as MODEL, and refuse what cannot be quantized honestly.

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

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from exporter.errors import OnnxFileError
from exporter.graph.onnx_graph import array_from_initializer, attribute, opset_of
from runtimes.io.bounded_read import read_plain_file

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
