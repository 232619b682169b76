"""What a manifest says of a file against the file itself, once that is open: an edited manifest is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import EDITED, Manifest, TensorEntry
from runtimes.errors import BundleError
from runtimes.protocol import Runtime, TensorSpec


def check_described(
    path: Path, manifest: Manifest, runtime: Runtime, metadata: Mapping[str, str], *, outputs: bool = True
) -> None:
    """Raise unless the manifest describes a file that is open.

    Args:
        path: The file, for the message.
        manifest: Of its bundle.
        runtime: The file, open.
        metadata: What the file holds beside its graph.
        outputs: Whether its outputs are as in the file, so that they are compared too.

    Raises:
        BundleError: Naming the key, what it says, the file and what that has.
    """
    _check_tensors(path, "inputs", manifest.inputs, runtime.input_specs)
    if outputs:
        _check_tensors(path, "outputs", manifest.outputs, runtime.output_specs)
    _check_preparation(path, manifest, metadata)


def _check_tensors(path: Path, ends: str, entries: tuple[TensorEntry, ...], specs: Mapping[str, TensorSpec]) -> None:
    """Raise unless `entries` describe the tensors of a file; an axis that either side leaves open fits any size."""
    by_name = {entry.name: entry for entry in entries}
    if by_name.keys() == specs.keys() and all(_is(by_name[name], spec) for name, spec in specs.items()):
        return
    said = ", ".join(f"{entry.name!r} {entry.dtype} {list(entry.shape)}" for entry in entries)
    has = ", ".join(f"{name!r} {spec}" for name, spec in specs.items())
    raise BundleError(f"{MANIFEST_NAME}: `{ends}` says {said}, but {path.name} has {has}; {EDITED}")


def _check_preparation(path: Path, manifest: Manifest, metadata: Mapping[str, str]) -> None:
    """Raise unless a file that says in its metadata how its pictures are prepared says what the manifest says."""
    try:
        written = json.loads(metadata["preprocessing"])
    except (KeyError, ValueError, RecursionError):
        return  # an engine has none; an export of an older version need not have it
    for field, said in manifest.preprocessing.to_json().items():
        if isinstance(written, dict) and field in written and written[field] != said:
            raise BundleError(
                f"{MANIFEST_NAME}: `preprocessing.{field}` is {json.dumps(said)}, but {path.name} was exported for "
                f"{json.dumps(written[field])}, as its metadata says; {EDITED}"
            )


def _is(entry: TensorEntry, spec: TensorSpec) -> bool:
    """Tell whether type, number of axes and every size that both know are the same."""
    return (
        entry.dtype == spec.dtype
        and len(entry.shape) == len(spec.shape)
        and all(
            isinstance(said, str) or has is None or said == has
            for said, has in zip(entry.shape, spec.shape, strict=True)
        )
    )
