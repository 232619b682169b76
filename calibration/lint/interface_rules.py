"""The file and its surface: batch and image size, weights in another file, constants that callers may replace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from calibration.lint.constants import num_bytes
from calibration.lint.finding import Finding, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph
from calibration.lint.rule_registry import LintSubject, RuleFamily, rules_in
from exporter.graph.invalid_model import names_two_opsets, why_invalid

MAX_CHECKED_BYTES = 512 << 20
"""Files up to this size go through onnx.checker, which copies them once."""

FIXED_BATCH = Rule(
    "I001",
    "fixed-batch",
    Severity.NOTE,
    "The batch is dynamic, unless one size is wanted",
    "Export with a symbolic batch, or keep the one size: an engine for it needs no optimization profile",
)
DYNAMIC_SIZE = Rule(
    "I002",
    "dynamic-image-size",
    Severity.NOTE,
    "Only the batch is dynamic",
    "Export with a fixed image size; TensorRT else needs a profile and cannot choose its kernels for one size",
)
EXTERNAL_DATA = Rule(
    "I003",
    "external-data",
    Severity.NOTE,
    "The weights are in the file",
    "Save with external_data=False, or move both files together; both names must stay",
)
BROKEN_EXTERNAL_DATA = Rule(
    "I004",
    "external-data-missing",
    Severity.ERROR,
    "The files that hold the weights lie beside the ONNX file and are long enough",
    "Copy the data file beside the ONNX file under its old name",
)
REPLACEABLE_WEIGHT = Rule(
    "I005",
    "weights-as-inputs",
    Severity.WARNING,
    "Weights are constants, not inputs with a default",
    "Export with keep_initializers_as_inputs=False; runtimes fold and quantize only what no caller can replace",
)
INVALID_GRAPH = Rule(
    "I006",
    "invalid-graph",
    Severity.ERROR,
    "The graph passes onnx.checker",
    "Report it to the tool that wrote the file",
)
METADATA_DROPPED = Rule(
    "I007",
    "metadata-dropped",
    Severity.WARNING,
    "A file of this tool still says how its images are prepared",
    "Edit it with a tool that keeps metadata_props, or copy them from the bundle's file: load() and verify read them",
)
PRODUCER = "resnet-export"
"""This tool's name in the files that it writes."""


def inputs_of(graph: QuantizedGraph) -> list[ValueInfoProto]:
    """Return the inputs that callers must give."""
    constants = {tensor.name for tensor in graph.model.graph.initializer}
    return [info for info in graph.model.graph.input if info.name not in constants]


def sizes_of(info: ValueInfoProto) -> list[int | str]:
    """Return an input's axes: a size, or the name of a dynamic axis, `?` where it has none or is written as -1 or 0."""
    return [
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else str(dim.dim_param or "?")
        for dim in info.type.tensor_type.shape.dim
    ]


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield what is unusual about the file and its inputs."""
    for info in inputs_of(graph):
        sizes = sizes_of(info)
        place = {"places": (str(info.name),), "nodes": (str(info.name),)}
        if sizes and isinstance(sizes[0], int):
            yield Finding(FIXED_BATCH, Severity.NOTE, f"the batch is fixed to {sizes[0]}", **place)
        if open_axes := [str(size) for size in sizes[1:] if isinstance(size, str)]:
            message = f"{len(open_axes)} axes besides the batch are dynamic: {', '.join(open_axes)}"
            yield Finding(DYNAMIC_SIZE, Severity.NOTE, message, **place)
    constants = {tensor.name for tensor in graph.model.graph.initializer}
    if both := [str(info.name) for info in graph.model.graph.input if info.name in constants]:
        message = f"{len(both)} constants are inputs too, which callers may replace"
        yield Finding(REPLACEABLE_WEIGHT, Severity.WARNING, message, tuple(both), tuple(both))
    if graph.model.producer_name == PRODUCER and not any(e.key == "preprocessing" for e in graph.model.metadata_props):
        message = f"written by {PRODUCER}, and without its metadata: how images are prepared, and the classes, are gone"
        yield Finding(METADATA_DROPPED, Severity.WARNING, message)
    yield from _external_data(graph)


def invalid_graph(problem: str) -> Finding:
    """Return the finding about a graph that no runtime takes."""
    return Finding(INVALID_GRAPH, Severity.ERROR, problem)


def checker_problem(model: ModelProto, path: Path | None) -> str:
    """Return what onnx.checker says against a model, or an empty string; too large a file is not asked about."""
    if names_two_opsets(model):
        return f"the graph is ambiguous: {why_invalid(model, '')}"
    outside = any(uses_external_data(tensor) for tensor in model.graph.initializer)
    if model.ByteSize() > MAX_CHECKED_BYTES or (outside and path is None):
        return ""
    try:
        onnx.checker.check_model(str(path) if outside else model)
    except Exception as err:  # the checker raises unrelated types
        return f"onnx.checker refuses the graph: {why_invalid(model, str(err))}"
    return ""


def _external_data(graph: QuantizedGraph) -> Iterator[Finding]:
    outside: dict[str, list[TensorProto]] = defaultdict(list)
    for tensor in graph.constants.tensors.values():
        if uses_external_data(tensor):
            outside[ExternalDataInfo(tensor).location].append(tensor)
    for location, tensors in outside.items():
        size = sum(num_bytes(tensor) for tensor in tensors)
        names = tuple(str(tensor.name) for tensor in tensors)
        problem = _why_not_readable(location, tensors, graph.folder)
        if problem:
            message = f"{len(tensors)} constants are in {location!r}, {problem}"
            yield Finding(BROKEN_EXTERNAL_DATA, Severity.ERROR, message, names, names)
        else:
            message = f"{len(tensors)} constants ({size / 1e6:.1f} MB) are in {location!r} beside the file"
            yield Finding(EXTERNAL_DATA, Severity.NOTE, message, names, names)


def _why_not_readable(location: str, tensors: list[TensorProto], folder: Path | None) -> str:
    if folder is None:
        return "and the model has no folder"
    path = Path(location)
    if not location or path.is_absolute() or ".." in path.parts:
        return "which is not a name inside the file's folder; runtimes refuse that"
    data = folder / path
    if not data.is_file():
        return "which does not exist"
    infos = [(tensor, ExternalDataInfo(tensor)) for tensor in tensors]
    needed = max(int(info.offset or 0) + int(info.length or num_bytes(tensor)) for tensor, info in infos)
    size = data.stat().st_size
    return f"which has {size:,} bytes, expected {needed:,} at least" if size < needed else ""


def _check(subject: LintSubject) -> Iterator[Finding]:
    """Yield what `check` finds, and what onnx's checker refuses where missing external data does not explain it."""
    found = list(check(subject.graph, subject.target))
    yield from found
    if subject.checker_problem and all(finding.rule is not BROKEN_EXTERNAL_DATA for finding in found):
        yield invalid_graph(subject.checker_problem)


FAMILY = RuleFamily(rules_in(globals()), _check)
