"""The two sides of `verify`: who is trusted, who is tested, opened as runtimes that give logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import ExportError
from exporter.passes.pre_post_options import Finish
from exporter.preprocessing.options import PreprocessingOptions
from resnet_export.verify_job.subject import Candidate, Subject
from runtimes.bundle.precision import is_int8
from runtimes.inference.model_description import ModelDescription
from runtimes.inference.runtime_kind import Choice, Opened, OpenOptions, RuntimeKind
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Array, Runtime
from runtimes.side_by_side import ONE_STREAM, Streams, in_order, streams_of_this_machine

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.models.loaded_model import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Who is trusted: a PyTorch module, or the bundle's own FP32 file."""

    name: str
    statement: str
    preprocessing: Preprocessing
    preprocessing_source: str
    loaded: LoadedModel | None = None
    file: Path | None = None

    def open(self, subject: Subject, streams: Streams) -> Runtime:
        """Open it; images go in normalized, logits come out."""
        if self.loaded is not None:
            from runtimes.pytorch import TorchRuntime

            return TorchRuntime(self.loaded.module, output_names=self.loaded.outputs)
        assert self.file is not None
        return _opened(self.file, "fp32", subject, "cpu", exact=True, streams=streams).runtime


def streams_for(provider: str) -> Streams:
    """Return how batches are shared out over the cores: any number of threads may run ONNX Runtime's CPU sessions."""
    return streams_of_this_machine() if provider == "cpu" else ONE_STREAM


def load_reference(
    subject: Subject, against: Any, weights: str, num_classes: int | None, options: PreprocessingOptions
) -> Reference | None:
    """Return who is trusted on images; None where only stored answers are at hand.

    Raises:
        ExportError: If the model cannot be loaded.
    """
    if against is not None:
        from exporter.models.load_model import load_any

        loaded = load_any(against, weights=weights, num_classes=num_classes, preprocessing=options)
        said = f"{loaded.model_id} ({loaded.source}), weights {loaded.weights}"
        name = loaded.reference_name
        return Reference(name, f"{name}: {said}", loaded.preprocessing, loaded.preprocessing_source, loaded=loaded)
    if subject.fp32 is None or subject.preprocessing is None:
        return None
    statement = (
        f"{subject.fp32.name}, the bundle's own FP32 file, which is compared with PyTorch's stored answers on the "
        "golden inputs only; --against MODEL --weights FILE compares with PyTorch itself"
    )
    return Reference(subject.fp32.name, statement, subject.preprocessing, "the manifest", file=subject.fp32)


@dataclass(frozen=True, slots=True, eq=False)
class OpenCandidate:
    """A file that runs and gives logits; `arithmetic` says how INT8 is computed."""

    candidate: Candidate
    runtime: Runtime
    inference_library: str
    provider: str | None
    arithmetic: str | None


def open_candidate(candidate: Candidate, subject: Subject, provider: str, streams: Streams) -> OpenCandidate:
    """Open one file.

    Raises:
        RuntimeAdapterError: If it does not load, or what it needs (a provider, TensorRT, a GPU) is not there.
        ExportError: If no logits can be had of it.
    """
    kind = RUNTIMES[provider]
    if candidate.is_engine and subject.finish.changes_output:
        raise ExportError(
            f"{candidate.path} ends in a softmax or the best classes, and logits cannot be had of an engine; "
            "verify its ONNX file, or export without --softmax and --topk"
        )
    exact = candidate.exact_qdq and is_int8(candidate.precision)
    opened = _opened(candidate.path, candidate.precision, subject, provider, exact=exact, streams=streams)
    told = opened.description
    name = None if candidate.is_engine else told.provider
    return OpenCandidate(candidate, opened.runtime, kind.computed_by, name, _arithmetic(candidate, kind, told))


def _arithmetic(candidate: Candidate, kind: RuntimeKind, told: ModelDescription) -> str | None:
    """Return how INT8 is computed, None for another precision."""
    if not is_int8(candidate.precision):
        return None
    if told.exact:
        return (
            "as written in the file (quantize, dequantize, float sums; exact_qdq), the way TensorRT computes it up to "
            "the rounding of a sum"
        )
    if candidate.is_engine:
        return "TensorRT's kernels"
    saturates = ", which may saturate on this CPU (see runtimes.ort.int8_kernels)" if told.may_saturate else ""
    return f"the kernels of {told.provider}{saturates}"


def _opened(path: Path, precision: str, subject: Subject, provider: str, *, exact: bool, streams: Streams) -> Opened:
    """Open a file as `load` would, and nothing else where that does not work; logits come out."""
    kind = RUNTIMES[provider]
    wants_logits = subject.finish.changes_output and kind.engine_flavor is None
    choice = Choice(path, provider, precision, "verified")
    model = with_logits(path, subject.finish) if wants_logits else None
    options = OpenOptions(threads=streams.threads or None, exact=exact, model=model)
    return kind.open(choice, subject.manifest, options)


def with_logits(path: Path, finish: Finish) -> ModelProto:
    """Return the file's model with what the network gives, before a Softmax or TopK that was added, as the only output.

    A Softmax of the network itself stays: the answers it is compared with have it too.
    """
    from exporter.graph.onnx_graph import refill, with_outputs
    from exporter.graph.read_model import read_model

    model = read_model(path)
    made = {name: node for node in model.graph.node for name in node.output}
    tensor = model.graph.output[0].name
    added = {"TopK": finish.topk is not None, "Softmax": finish.softmax}
    while (node := made.get(tensor)) is not None and (node.op_type == "Identity" or added.get(node.op_type, False)):
        added[node.op_type] = False  # one of each
        tensor = node.input[0]
    cut = with_outputs(model, [tensor])
    refill(cut.graph.output, [info for info in cut.graph.output if info.name == tensor])
    return cut


def logits_of(runtime: Runtime, inputs: Array, streams: Streams = ONE_STREAM) -> Array:
    """Return the first output, float32 [n, num_classes]; a file fixed to a batch size gets its images in such pieces.

    Raises:
        ExportError: If that is no table of logits.
    """
    ((name, spec),) = list(runtime.input_specs.items())[:1]
    output = next(iter(runtime.output_specs))
    size = spec.shape[0] or -(-len(inputs) // streams.count)

    def answers(piece: Array) -> Array:
        filled = np.ascontiguousarray(np.resize(piece, (spec.shape[0] or len(piece), *piece.shape[1:])))
        return runtime.run({name: filled})[output][: len(piece)]

    pieces = [partial(answers, inputs[first : first + size]) for first in range(0, len(inputs), size)]
    logits: Array = np.concatenate(list(in_order(pieces, streams)))
    if logits.ndim != 2:
        raise ExportError(f"output {output!r}: got {list(logits.shape)}, expected logits [N, classes]")
    return logits


def as_taken(runtime: Runtime, images: Array, preprocessing: Preprocessing) -> Array:
    """Return normalized images as the model takes them: pixels for a uint8 input."""
    spec = next(iter(runtime.input_specs.values()))
    return pixels_of(preprocessing, images) if spec.dtype == "uint8" else images
