"""Read an ONNX file: whole, or refused with the reason; the one place where files become a `ModelProto`.

Only the file itself is read whole (protobuf holds 2 GB at most). Whether the model passes onnx's checker, and what it
may hold, is asked by who uses it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import ModelProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from exporter.errors import OnnxFileError
from runtimes.io.bounded_read import read_plain_file
from runtimes.io.stand_in import stand_in_at

MAX_FILE_BYTES = 2**31 - 1
"""Largest protobuf message. Source: protobuf.dev, Proto Limits."""


def read_model(path: Path, *, external_data: bool = True) -> ModelProto:
    """Return the model of a file, by default with the weights that it keeps in other files beside it.

    Raises:
        OnnxFileError: If it is missing, empty, truncated, damaged or no ONNX file, or lacks its external data.
    """
    return read_model_and_hash(path, external_data=external_data)[0]


def read_model_and_hash(path: Path, *, external_data: bool = True) -> tuple[ModelProto, str]:
    """Return the model of a file and the SHA-256 of the file's bytes, hexadecimal; see `read_model`."""
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise OnnxFileError(f"{path} is not an ONNX file: it has {size:,} bytes, and protobuf holds 2 GiB at most")
        content = read_plain_file(path, MAX_FILE_BYTES)
    except OSError as err:
        reason = "no such file" if isinstance(err, FileNotFoundError) else err.strerror
        raise OnnxFileError(f"{path} cannot be read: {reason}; expected an ONNX file") from err
    if not content:
        raise OnnxFileError(f"{path} is not an ONNX file: it is empty; write it again")
    try:
        model = ModelProto.FromString(content)
    except Exception as err:  # DecodeError of protobuf, which is onnx's dependency, not ours
        raise OnnxFileError(
            f"{path} is not an ONNX file, or is truncated ({len(content):,} bytes do not parse: {err}); write it again"
        ) from err
    if not model.graph.node or not model.ir_version:
        raise OnnxFileError(f"{path} is not an ONNX file: its {len(content):,} bytes hold no graph")
    if not _names_are_text(model):
        raise OnnxFileError(f"{path} is damaged: a name in it is no text; write it again")
    if external_data:
        _load_external_data(model, path)
    return model, hashlib.sha256(content).hexdigest()


def _names_are_text(model: ModelProto) -> bool:
    """Tell whether every name is UTF-8, which protobuf only looks at when a name is asked for."""
    graph = model.graph
    try:
        named = [item.name for items in (graph.node, graph.initializer, graph.input, graph.output) for item in items]
        tensors = [name for node in graph.node for name in (*node.input, *node.output, node.op_type, node.domain)]
    except UnicodeDecodeError:
        return False
    return all(isinstance(name, str) for name in (*named, *tensors))


def _load_external_data(model: ModelProto, path: Path) -> None:
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    if not outside:
        return
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as err:  # a missing file, one that is too short, a path that leaves the folder: several types
        entries = (entry for tensor in outside for entry in tensor.external_data)
        locations = sorted({entry.value for entry in entries if entry.key == "location"})
        told = next(filter(None, (stand_in_at(path.parent / name) for name in locations)), "")
        raise OnnxFileError(
            f"{path} keeps {len(outside)} weights in {', '.join(locations)}, which cannot be read: "
            + (told or f"{err}; copy that file beside it under its old name")
        ) from err
