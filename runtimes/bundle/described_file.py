"""What a manifest says of a file against the file itself, once that is open: an edited manifest is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import EDITED, Manifest, TensorEntry
from runtimes.errors import BundleError
from runtimes.protocol import TensorSpec


def check_tensors(path: Path, ends: str, entries: tuple[TensorEntry, ...], specs: Mapping[str, TensorSpec]) -> None:
    """Raise unless `entries` describe the tensors of a file; an axis that either side leaves open fits any size.

    Args:
        path: The file, for the message.
        ends: Key of the manifest, "inputs" or "outputs".
        entries: What the manifest says.
        specs: What the file has.

    Raises:
        BundleError: Naming the key, what it says, the file and what that has.
    """
    by_name = {entry.name: entry for entry in entries}
    if by_name.keys() == specs.keys() and all(_is(by_name[name], spec) for name, spec in specs.items()):
        return
    said = ", ".join(f"{entry.name!r} {entry.dtype} {list(entry.shape)}" for entry in entries)
    has = ", ".join(f"{name!r} {spec}" for name, spec in specs.items())
    raise BundleError(f"{MANIFEST_NAME}: `{ends}` says {said}, but {path.name} has {has}; {EDITED}")


def check_preparation(path: Path, manifest: Manifest, metadata: Mapping[str, str]) -> None:
    """Raise unless a file that says in its metadata how its pictures are prepared says what the manifest says.

    Raises:
        BundleError: Naming the first field of `preprocessing` that differs, with both values.
    """
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
