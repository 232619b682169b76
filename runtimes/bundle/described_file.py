"""What a manifest says of its files against the files themselves: an edited manifest is refused.

Source: onnx.proto3 (ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorShapeProto).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtimes.bundle.file_names import LABELS_NAME, MANIFEST_NAME
from runtimes.bundle.manifest import EDITED, Manifest, TensorEntry, check_files, load_manifest, may_be, read_labels
from runtimes.errors import BundleError
from runtimes.io.protobuf import fields, mapped, text
from runtimes.metrics.answer_kind import KEY, AnswerKind
from runtimes.protocol import TensorSpec

Specs = Mapping[str, TensorSpec]

_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}
"""TensorProto.DataType to NumPy's name, of what the inputs and outputs of a bundle may be."""


def load_unchanged(bundle: Path, *, public_key: Path | None = None) -> Manifest:
    """Return the manifest of a bundle whose files have its hashes, and whose ONNX files are as it describes them.

    Raises:
        BundleError: If the folder is no bundle, or a file or the manifest was changed; names what differs.
        SignatureError, MissingDependencyError: As `load_manifest`.
    """
    manifest = load_manifest(bundle, public_key=public_key)
    check_files(bundle, manifest)
    for path in (bundle / name for name in manifest.files if name.endswith(".onnx")):
        try:
            inputs, outputs, metadata = _read_ends(path)
        except (OSError, TypeError, LookupError, ValueError) as err:
            raise BundleError(f"{path}: no ONNX file ({err}); export the bundle anew") from err
        _check_tensors(path, "inputs", manifest.inputs, inputs)
        _check_tensors(path, "outputs", manifest.outputs, outputs)
        written = {key: _json(text) for key, text in metadata.items()}
        _check_preparation(path, manifest, written.get("preprocessing"))
        _check_answers(path, manifest, written.get(KEY))
        _check_labels(path, read_labels(bundle, manifest), written.get("labels"))
    return manifest


def _read_ends(path: Path) -> tuple[Specs, Specs, dict[str, str]]:
    """Return the inputs, outputs and metadata of an ONNX file; neither onnx nor a runtime is needed.

    Raises:
        OSError, TypeError, LookupError, ValueError: If it cannot be read or is no ONNX file.
    """
    with mapped(path) as view:
        model = [field for field in fields(view, 0, len(view)) if field[0] in (7, 14)]  # graph, metadata_props
        graph = next((span for number, span in model if number == 7), None)
        if graph is None:
            raise ValueError("it holds no graph")
        tensors = [(number, span) for number, span in fields(view, *graph) if number in (11, 12)]  # input, output
        inputs, outputs = (dict(_tensor(view, span) for place, span in tensors if place == end) for end in (11, 12))
        entries = [dict(fields(view, *span)) for number, span in model if number == 14]
        return inputs, outputs, {text(view, entry.get(1)): text(view, entry.get(2)) for entry in entries}


def _tensor(view: memoryview, span: tuple[int, int]) -> tuple[str, TensorSpec]:
    value = dict(fields(view, *span))
    tensor = dict(fields(view, *dict(fields(view, *value[2]))[1]))
    sizes = [dict(fields(view, *dim)) for _, dim in fields(view, *tensor[2])]
    dtype = _TYPES.get(tensor[1], f"type {tensor[1]}")
    return text(view, value[1]), TensorSpec(dtype, tuple(size.get(1) for size in sizes))


def _check_tensors(path: Path, ends: str, entries: tuple[TensorEntry, ...], specs: Specs) -> None:
    """Raise unless `entries` describe the tensors of a file; an axis that either side leaves open fits any size."""
    by_name = {entry.name: entry for entry in entries}
    if by_name.keys() == specs.keys() and all(
        by_name[name].dtype == spec.dtype and may_be(by_name[name].shape, spec.shape) for name, spec in specs.items()
    ):
        return
    said = ", ".join(f"{entry.name!r} {entry.dtype} {list(entry.shape)}" for entry in entries)
    has = ", ".join(f"{name!r} {spec}" for name, spec in specs.items())
    raise BundleError(f"{MANIFEST_NAME}: `{ends}` says {said}, but {path.name} has {has}; {EDITED}")


def _json(text: str) -> object:
    """Return a value of a file's metadata; None of what another tool wrote there."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _check_preparation(path: Path, manifest: Manifest, written: object) -> None:
    """Raise unless a file that says in its metadata how its pictures are prepared says what the manifest says."""
    for field, said in manifest.preprocessing.to_json().items():
        if isinstance(written, dict) and field in written and written[field] != said:
            raise BundleError(
                f"{MANIFEST_NAME}: `preprocessing.{field}` is {json.dumps(said)}, but {path.name} was exported for "
                f"{json.dumps(written[field])}, as its metadata says; {EDITED}"
            )


def _check_answers(path: Path, manifest: Manifest, written: object) -> None:
    """Raise unless a file that says whether it gives logits or probabilities says what the manifest says."""
    kind = next((kind for kind in AnswerKind if kind.value == written), None)
    said = manifest.answers
    if kind is None or said is None or kind is said:
        return
    raise BundleError(
        f"{MANIFEST_NAME}: `model.{KEY}` and `options.softmax` say that the files give {said.value}, but "
        f"{path.name} gives {kind.value}, as its metadata says; {EDITED}"
    )


def _check_labels(path: Path, labels: tuple[str, ...] | None, written: object) -> None:
    """Raise unless a file that names its classes in its metadata names them as `labels.txt` does."""
    if labels is None or not isinstance(written, list) or list(labels) == written:
        return
    index = next((place for place, pair in enumerate(zip(labels, written, strict=False)) if pair[0] != pair[1]), None)
    differs = (
        f"it has {len(labels)}, {path.name} {len(written)}"
        if index is None
        else f"class {index} is {labels[index]!r}, but {path.name} was exported with {written[index]!r}"
    )
    raise BundleError(f"{LABELS_NAME}: {differs}, as its metadata says; {EDITED}")
