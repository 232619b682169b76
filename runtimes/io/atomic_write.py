"""Files that appear whole or not at all, and what killed writers leave behind.

A writer works in a hidden sibling, on which it holds a lock (flock) until it has been renamed into place. The system
gives the lock up when the process ends, however it ends. So a sibling without a lock is the leftover of a writer that
was killed, and the next writer removes it; a writer at work, in whatever process or container, is left alone. Where the
file system knows no locks, nothing is removed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".resnet-export-"
"""How the names of all unfinished files and folders begin."""

ASIDE = "old-"
"""Part of the name of a folder into which an old bundle steps aside."""

_MADE_UP = "[a-z0-9_]{8}"
"""Random end that Python's `tempfile` gives a name."""


def write_whole(files: Sequence[tuple[Path, bytes]], *, mode: int = 0o644) -> None:
    """Write files of one folder, each through a hidden sibling that is renamed; nothing is renamed before all are full.

    Two processes that write the same files take turns with the renames, so the files left are of one of them. Killed
    between two renames, the first files are new and the last ones old: write what vouches for the others last.

    Raises:
        OSError: If the disk refuses; the old files are unchanged then, unless it refuses a rename, and nothing else is
            left behind.
        ValueError: If the files are in several folders.
    """
    folders = {path.parent for path, _ in files}
    if len(folders) != 1:
        raise ValueError(f"got files of {len(folders)} folders, expected one")
    (folder,) = folders
    remove_leftovers(folder, [path.name for path, _ in files])
    with ExitStack() as stack:
        unfinished = [(stack.enter_context(_unfinished(path, content, mode)), path) for path, content in files]
        with _turn(folder):
            for temporary, path in unfinished:
                temporary.replace(path)


@contextmanager
def replacing(path: Path, *, folder: Path | None = None, mode: int = 0o644) -> Iterator[Path]:
    """Make an empty hidden file to be filled bit by bit, and rename it to `path` once the block ends without an error.

    Args:
        path: What it is to become.
        folder: Where it grows, on the same file system; None for beside `path`.
        mode: Permissions.

    Raises:
        OSError: If the disk refuses; `path` is unchanged then, and nothing else is left behind.
    """
    with _held_sibling(path, folder or path.parent) as temporary:
        yield temporary
        sync(temporary)
        temporary.chmod(mode)
        temporary.replace(path)


@contextmanager
def unfinished_folder(
    target: Path, infix: str = "", *, may_remove: Callable[[], bool] = lambda: True
) -> Iterator[Path]:
    """Make an empty hidden sibling of the folder `target`, held until the block ends and then removed if it is there.

    Args:
        target: What it is to become.
        infix: "" or `ASIDE`.
        may_remove: Asked at the end; False keeps it for the next run.

    Raises:
        OSError: If the disk refuses.
    """
    prefix = f"{TEMPORARY}{target.name}-{infix}"
    lock = None
    while lock is None:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        lock = _held(folder)
    try:
        yield folder
    finally:
        if may_remove():
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def remove_leftovers(folder: Path, names: Sequence[str] | None = None) -> None:
    """Remove what killed writers left in `folder`; what cannot be removed stays, nothing is raised."""
    for path in leftovers(folder, names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def leftovers(folder: Path, names: Sequence[str] | None = None) -> Iterator[Path]:
    """Yield what killed writers left in `folder`; each is locked while the caller handles it."""
    wanted = ".*" if names is None else "|".join(map(re.escape, names))
    pattern = re.compile(f"{re.escape(TEMPORARY)}(?:{wanted})-(?:{ASIDE})?{_MADE_UP}", re.DOTALL)
    try:
        found = sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
    except OSError:
        return
    for name in found:
        lock = _locked_leftover(folder / name)
        if lock is not None:
            try:
                yield folder / name
            finally:
                os.close(lock)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder.

    Raises:
        OSError: If it cannot be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _unfinished(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write the hidden sibling of `path`; remove it at the end unless it was renamed."""
    with _held_sibling(path, path.parent) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        yield temporary


@contextmanager
def _held_sibling(path: Path, folder: Path) -> Iterator[Path]:
    """Make the empty hidden file that is to become `path`, held; remove it at the end unless it was renamed."""
    lock = None
    while lock is None:
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}-", dir=folder)
        os.close(handle)
        lock = _held(temporary := Path(name))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        lock.close()


def _held(path: Path) -> ExitStack | None:
    """Lock what was just made at `path`, where there are locks; None if somebody took it for a leftover meanwhile."""
    if sys.platform == "win32":
        return ExitStack()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks, where nobody removes anything either
        os.close(handle)
        return ExitStack()
    if _is_at(handle, path):
        lock = ExitStack()
        lock.callback(os.close, handle)
        return lock
    os.close(handle)
    return None


def _locked_leftover(path: Path) -> int | None:
    """Open and lock a file or folder that nobody holds; None if it is held, gone, or cannot be locked here."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    if _is_at(handle, path):
        return handle
    os.close(handle)  # its writer has renamed it meanwhile
    return None


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether `path` still is what `handle` has open."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold `folder` itself, so that the renames of two writers do not mix; waits for the other one."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: the last rename wins, as ever
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
