"""`config.pbtxt` of one Triton model, from what the manifest (or an engine's sidecar) says about a file.

Where the first axis of every input and output is the dynamic batch, Triton batches: `max_batch_size` is its largest
value and `dims` leave it out. Where it is fixed, or only large batches fit, `max_batch_size` is 0 and `dims` are whole:
Triton then hands every request through as it came.

Source: Triton Inference Server, docs/user_guide/model_configuration.md, and model_config.proto (message ModelConfig).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.deploy.proto_text import Message, Word, message, text_from_message
from exporter.errors import ExportError
from runtimes.argument_kinds import Count
from runtimes.bundle.file_names import LABELS_NAME
from runtimes.bundle.manifest import BatchRange, Manifest, TensorEntry

HEADER = "# Written by resnet-export triton; a folder whose config.pbtxt begins so is replaced by --force."

VERSION = "1"

FILE_OF_BACKEND = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""Triton's default file name in the version folder."""

_PLATFORM_OF_BACKEND = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}

_DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64")
_TYPE_OF_DTYPE = {dtype: f"TYPE_{dtype.replace('float', 'fp').upper()}" for dtype in _DTYPES}


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton runs a model.

    Attributes:
        max_batch: Largest batch that Triton may form, or None for the bundle's.
        preferred: Batch sizes that are sent at once when reached, or None for the bundle's usual and largest.
        max_queue_delay_us: How long a request may wait for others, in microseconds.
        instances: Copies of the model on each device.
        device: "auto" (GPU where Triton has one), "gpu" or "cpu".
        gpus: Indices of the GPUs that run it; empty for all.
    """

    max_batch: Count | None = None
    preferred: tuple[int, ...] | None = None
    max_queue_delay_us: int = 500
    instances: Count = 1
    device: str = "auto"
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Triton refuses, here and not when the server starts."""
        if self.device not in ("auto", "gpu", "cpu"):
            raise ValueError(f"device: got {self.device!r}, expected auto, gpu or cpu")
        if self.gpus and self.device == "cpu":
            raise ValueError("--gpus names GPUs, --device cpu runs on none; leave out one of them")
        if self.max_queue_delay_us < 0:
            raise ValueError(f"max_queue_delay_us: got {self.max_queue_delay_us}, expected at least 0")


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One folder of the repository.

    Attributes:
        backend: "onnxruntime" or "tensorrt".
        batch: Batch sizes that the file takes; for an ONNX file with a dynamic batch the bundle's.
        has_labels: Whether the labels file names the places of the one output.
    """

    name: str
    backend: str
    batch: BatchRange
    has_labels: bool


def config_text(model: TritonModel, manifest: Manifest, serving: Serving) -> str:
    """Return the content of `config.pbtxt`.

    Raises:
        ExportError: If a tensor's type is unknown to Triton, or the options do not fit the file.
    """
    max_batch = max_batch_size(model, manifest, serving)
    fields: list[tuple[str, Message | str | int | Word | Sequence[Message]]] = [
        ("name", model.name),
        ("backend", model.backend),
        ("platform", _PLATFORM_OF_BACKEND[model.backend]),
        ("default_model_filename", FILE_OF_BACKEND[model.backend]),
        ("max_batch_size", max_batch),
        ("version_policy", message(("latest", message(("num_versions", 1))))),
        ("input", [_tensor(entry, max_batch) for entry in manifest.inputs]),
        ("output", [_tensor(entry, max_batch, model.has_labels) for entry in manifest.outputs]),
    ]
    if max_batch <= 1 and serving.preferred is not None:
        raise ExportError(f"--preferred {serving.preferred}: Triton forms no batches for {model.name}; leave it out")
    if max_batch > 1:
        fields.append(("dynamic_batching", _dynamic_batching(serving, manifest, max_batch)))
    fields.append(("instance_group", _instance_group(model, serving)))
    fields += [("parameters", entry) for entry in _parameters(manifest)]
    return f"{HEADER}\n{text_from_message(message(*fields))}"


def max_batch_size(model: TritonModel, manifest: Manifest, serving: Serving) -> int:
    """Return Triton's `max_batch_size`: 0 where Triton must not batch.

    Raises:
        ExportError: If --max-batch asks for a batch that the file does not take.
    """
    asked = serving.max_batch
    fixed = [entry for entry in (*manifest.inputs, *manifest.outputs) if not isinstance(entry.shape[0], str)]
    if fixed or model.batch.min > 1:
        why = f"{fixed[0].name} has a fixed first axis {fixed[0].shape}" if fixed else f"it takes {model.batch}"
        if asked not in (None, 0):
            raise ExportError(
                f"--max-batch {asked}: Triton cannot batch {model.name}, because {why}; leave it out, or export with a "
                "dynamic batch"
            )
        return 0
    if asked is None:
        return model.batch.max
    if model.backend == "tensorrt" and asked > model.batch.max:
        raise ExportError(
            f"--max-batch {asked}: the engine of {model.name} takes at most {model.batch.max}; build it for larger "
            f"batches (resnet-export build --batch MIN,OPT,{asked})"
        )
    return asked


def _tensor(entry: TensorEntry, max_batch: int, labels: bool = False) -> Message:
    if entry.dtype not in _TYPE_OF_DTYPE:
        raise ExportError(f"{entry.name}: Triton has no type for {entry.dtype}; it has {', '.join(_TYPE_OF_DTYPE)}")
    shape = entry.shape[1:] if max_batch > 0 else entry.shape
    dims = [-1 if isinstance(size, str) else size for size in shape]
    described: list[tuple[str, str | Word | Sequence[int]]] = [
        ("name", entry.name),
        ("data_type", Word(_TYPE_OF_DTYPE[entry.dtype])),
        ("dims", dims),
    ]
    if labels:
        described.append(("label_filename", LABELS_NAME))
    return message(*described)


def _dynamic_batching(serving: Serving, manifest: Manifest, max_batch: int) -> Message:
    preferred = serving.preferred
    if preferred is None:
        preferred = tuple(sorted({size for size in (manifest.batch.opt, max_batch) if 1 < size <= max_batch}))
    elif too_large := [size for size in preferred if size > max_batch]:
        raise ExportError(f"--preferred {too_large[0]}: larger than the largest batch, {max_batch}")
    return message(("preferred_batch_size", preferred), ("max_queue_delay_microseconds", serving.max_queue_delay_us))


def _instance_group(model: TritonModel, serving: Serving) -> Message:
    if model.backend == "tensorrt" and serving.device == "cpu":
        raise ExportError(
            f"{model.name}: a TensorRT engine does not run on a CPU; leave out --device cpu or the engine"
        )
    kind = "gpu" if serving.gpus or model.backend == "tensorrt" else serving.device
    return message(("count", serving.instances), ("kind", Word(f"KIND_{kind.upper()}")), ("gpus", serving.gpus))


def _parameters(manifest: Manifest) -> list[Message]:
    """Return what a client needs to prepare images and can ask the server for; backends ignore it."""
    known = {
        "resnet_export.preprocessing": json.dumps(manifest.preprocessing.to_json()),
        "resnet_export.model": str(manifest.model.get("id", "")),
    }
    if manifest.answers is not None:
        known["resnet_export.answers"] = manifest.answers.value
    return [message(("key", key), ("value", message(("string_value", value)))) for key, value in known.items()]
