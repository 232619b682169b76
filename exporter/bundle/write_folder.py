"""Write a bundle folder whole or not at all.

Files go to a hidden sibling folder; at the end that folder changes places with the old bundle in one step of the file
system, so that a run that fails, is interrupted or is killed at any moment leaves the old bundle, or none, or the new
one. Where the file system cannot do that, the old bundle steps aside first, and a run that was killed between the two
renames is put right by the next one. `--force` replaces a bundle only: a folder that is something else is never
deleted, and many things have a `manifest.json`, so that its content decides.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle.tool_entry import TOOL_NAME
from exporter.errors import ExportError, OutputExistsError
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import FileEntry, Manifest, file_entry
from runtimes.io.atomic_write import ASIDE, leftovers, sync, unfinished_folder
from runtimes.io.bounded_read import read_json_file
from runtimes.io.writable import why_not_writable

_OLD = "old"
"""Name of the old bundle in the folder where it steps aside."""


@dataclass(frozen=True, slots=True)
class FolderKind:
    """Kind of output folder; `sign` says in words what one holds, `is_ours` tells whether this tool wrote it."""

    what: str
    sign: str
    is_ours: Callable[[Path], bool]


def marked_by_first_line(what: str, file: str, header: str) -> FolderKind:
    """Return the kind of the folders in which the text file `file` begins with `header`."""

    def is_ours(folder: Path) -> bool:
        try:
            return (folder / file).read_text(encoding="utf-8").startswith(header)
        except (OSError, ValueError):
            return False

    return FolderKind(what, f"{file} with its first line", is_ours)


def check_output(output: Path, *, force: bool, kind: FolderKind | None = None) -> None:
    """Raise unless a folder of `kind` (a bundle when None) may be written to `output`; called before any work.

    Raises:
        OutputExistsError: If it exists, and `force` is off or it is of another kind.
        ExportError: If nothing can be written there.
    """
    put_right(output, kind=kind or BUNDLE)
    try:
        _check_free(output, force=force, kind=kind or BUNDLE)
    except OSError as err:  # a folder that cannot be read, a name that is too long
        raise ExportError(f"{output} cannot be looked at: {err}; choose another -o/--output") from err
    if reason := why_not_writable(output):
        raise ExportError(f"{output} cannot be written: {reason}; choose another -o/--output")


def _check_free(output: Path, *, force: bool, kind: FolderKind) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        what = "a link, which is not followed" if output.is_symlink() else "not a folder"
        raise OutputExistsError(f"{output} exists and is {what}; choose another -o/--output")
    if output.is_dir() and any(output.iterdir()):
        if not kind.is_ours(output):
            raise OutputExistsError(
                f"{output} exists and is not a {kind.what} (no {kind.sign}); it is left alone even with "
                "--force: choose another -o/--output"
            )
        if not force:
            raise OutputExistsError(f"{output} exists; --force replaces it, -o/--output writes elsewhere")


def json_object(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; {} where it is not there, cannot be read, or holds no object."""
    try:
        content = read_json_file(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_bundle(folder: Path) -> bool:
    """Tell whether `folder` has a manifest that this tool wrote, of whatever schema."""
    tool = json_object(folder / MANIFEST_NAME).get("tool")
    return isinstance(tool, dict) and tool.get("name") == TOOL_NAME


BUNDLE = FolderKind("bundle", f"{MANIFEST_NAME} of {TOOL_NAME}", _is_bundle)


def put_right(output: Path, *, kind: FolderKind = BUNDLE) -> None:
    """Bring back a folder that a killed run had moved aside, and remove what killed runs left behind."""
    output = output.absolute()
    for path in leftovers(output.parent, [output.name]):
        old = path / _OLD
        if kind.is_ours(old) and not output.exists():
            with suppress(OSError):
                old.rename(output)
        if not old.exists() or output.exists():  # never the only copy
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def bundle_folder(output: Path, *, force: bool = True, kind: FolderKind = BUNDLE) -> Iterator[Path]:
    """Give an empty temporary folder beside `output`; on a clean exit it becomes `output`.

    Raises:
        ExportError: If the disk is full or cannot be written; no file is left behind.
        OutputExistsError: If one is there and `force` is off, or something that is not of `kind` has come meanwhile;
            it is left alone.
    """
    output = output.absolute()
    try:
        with _made_parents(output), unfinished_folder(output) as folder:
            folder.chmod(0o777 & ~_umask())
            yield folder
            for path in (*sorted(folder.rglob("*")), folder):
                if path.is_file() or path.is_dir():
                    sync(path)  # a name must not outlive a power cut that its content did not
            _replace(output, folder, kind, force=force)
            sync(output.parent)
    except OSError as err:
        raise ExportError(f"{output} cannot be written: {err}; the old {kind.what}, if any, is unchanged") from err


@contextmanager
def _made_parents(output: Path) -> Iterator[None]:
    """Make the folders above `output`; where what follows fails, those that were made and are empty go again."""
    made = [folder for folder in output.parents if not folder.exists()]  # the innermost first
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:  # Ctrl-C too: nothing is handled here, only tidied, and it is raised again
        with suppress(OSError):  # one that is not empty, or was never made: those above it stay too
            for folder in made:
                folder.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(output: Path, folder: Path, kind: FolderKind, *, force: bool) -> None:
    """Make `folder` the folder `output`; an old one is then at `folder`, or gone."""
    _check_free(output, force=force, kind=kind)  # something else may have come there since the first check
    if not output.exists() or not any(output.iterdir()):
        folder.rename(output)  # fails where another run has put its own in this very moment
    elif not exchange(output, folder):
        _replace_in_two_steps(output, folder)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot.

    Raises:
        OSError: If a path is missing or may not be written.
    Source: Linux manual, renameat2(2), RENAME_EXCHANGE (Linux 3.15; ext4, XFS, Btrfs, tmpfs and others; not NFS).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or a C library without it
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one))


def _replace_in_two_steps(output: Path, folder: Path) -> None:
    """Rename `folder` to `output`; an old bundle steps aside first and comes back if that fails."""

    def is_no_only_copy() -> bool:
        return not (folder.exists() and (aside / _OLD).exists())

    with unfinished_folder(output, ASIDE, may_remove=is_no_only_copy) as aside:
        old = aside / _OLD
        try:
            output.rename(old)
            folder.rename(output)
        except BaseException:  # Ctrl-C between the two renames too: the old bundle goes back
            if folder.exists() and old.exists():  # the new bundle is not in place, the old one no longer
                _put_back(old, output)
            raise


def _put_back(old: Path, output: Path) -> None:
    try:
        old.rename(output)
    except OSError as err:
        raise ExportError(
            f"{output} cannot be written, and the old bundle cannot be moved back ({err}): it is now {old}"
        ) from err


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON; NaN and Inf are refused because other languages cannot read them."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates; written as \\udcff they are what JSON has for them.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return hash and size of every file in `folder` but the manifest, by name."""
    return {path.name: file_entry(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files."""
    write_json(folder / MANIFEST_NAME, manifest.to_json())
