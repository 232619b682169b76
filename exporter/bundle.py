"""Write a bundle folder whole or not at all.

Files go to a hidden sibling folder; at the end that folder is renamed into place. A run that fails or is interrupted
leaves the old bundle, or none. `--force` replaces a bundle only: a folder that is something else is never deleted,
and many things have a `manifest.json`, so that its content decides.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ExportError, OutputExistsError
from runtimes.manifest import MANIFEST_NAME, FileEntry, Manifest, file_entry

TOOL_NAME = "resnet-export"
"""What the manifest's `tool` says; a folder whose manifest says otherwise is not ours."""

_TEMPORARY = f".{TOOL_NAME}-"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What kind of folder is written, and how an old one is told from somebody else's.

    Attributes:
        what: In words, without an article.
        sign: In words, what a folder of this kind has inside.
        is_ours: Tells whether a folder is one that this tool wrote, of whatever version.
    """

    what: str
    sign: str
    is_ours: Callable[[Path], bool]


def check_output(output: Path, *, force: bool, kind: FolderKind | None = None) -> None:
    """Raise unless a folder of `kind` (a bundle when None) may be written to `output`; called before any work.

    Raises:
        OutputExistsError: If it exists, and `force` is off or it is of another kind.
        ExportError: If its parent folder cannot be written.
    """
    try:
        _check_free(output, force=force, kind=kind or BUNDLE)
        parent = next(folder for folder in output.absolute().parents if folder.exists())
    except OSError as err:  # a folder that cannot be read, a name that is too long
        raise ExportError(f"{output} cannot be looked at: {err}; choose another -o/--output") from err
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ExportError(f"{parent} is not a folder that can be written to; choose another -o/--output")


def _check_free(output: Path, *, force: bool, kind: FolderKind) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputExistsError(f"{output} exists and is not a folder; choose another -o/--output")
    if output.is_dir() and any(output.iterdir()):
        if not kind.is_ours(output):
            raise OutputExistsError(
                f"{output} exists and is not a {kind.what} (no {kind.sign}); it is left alone even with "
                "--force: choose another -o/--output"
            )
        if not force:
            raise OutputExistsError(f"{output} exists; --force replaces it, -o/--output writes elsewhere")


def _is_bundle(folder: Path) -> bool:
    """Tell whether `folder` has a manifest that this tool wrote, of whatever schema."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    tool = content.get("tool") if isinstance(content, dict) else None
    return isinstance(tool, dict) and tool.get("name") == TOOL_NAME


BUNDLE = FolderKind("bundle", f"{MANIFEST_NAME} of {TOOL_NAME}", _is_bundle)


@contextmanager
def bundle_folder(output: Path, *, kind: FolderKind = BUNDLE) -> Iterator[Path]:
    """Give an empty temporary folder beside `output`; on a clean exit it becomes `output`.

    Raises:
        ExportError: If the disk is full or cannot be written; no file is left behind.
        OutputExistsError: If something that is not of `kind` has come to `output` meanwhile; it is left alone.
    """
    output = output.absolute()
    folder: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{output.name}-", dir=output.parent))
        folder.chmod(0o777 & ~_umask())
        yield folder
        _replace(output, folder, kind)
    except OSError as err:
        raise ExportError(f"{output} cannot be written: {err}; the old {kind.what}, if any, is unchanged") from err
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(output: Path, folder: Path, kind: FolderKind) -> None:
    """Rename `folder` to `output`; an old one steps aside first and comes back if that fails."""
    _check_free(output, force=True, kind=kind)  # something else may have come there since the first check
    if not output.exists():
        folder.rename(output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{output.name}-old-", dir=output.parent))
    old = aside / "old"
    try:
        output.rename(old)
        folder.rename(output)
    except BaseException:  # Ctrl-C between the two renames too: the old bundle goes back
        if folder.exists() and old.exists():  # the new bundle is not in place, the old one no longer
            _put_back(old, output)
        raise
    finally:
        if not (folder.exists() and old.exists()):  # never the only copy
            shutil.rmtree(aside, ignore_errors=True)


def _put_back(old: Path, output: Path) -> None:
    try:
        old.rename(output)
    except OSError as err:
        raise ExportError(
            f"{output} cannot be written, and the old bundle cannot be moved back ({err}): it is now {old}"
        ) from err


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON; NaN and Inf are refused because other languages cannot read them."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return hash and size of every file in `folder` but the manifest, by name."""
    return {path.name: file_entry(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files."""
    write_json(folder / MANIFEST_NAME, manifest.to_json())
