"""The user's cache folder, and files in it that appear whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtimes.io.atomic_write import remove_leftovers, write_whole

CACHE_VARIABLE = "RESNET_EXPORT_CACHE"
"""Environment variable that names the folder itself."""

_FOLDER = "resnet-export"


def user_cache_folder() -> Path:
    """Return where this tool may keep what it can compute again; the folder need not exist.

    `RESNET_EXPORT_CACHE` if set; else the platform's place: `$XDG_CACHE_HOME` or `~/.cache`, on macOS
    `~/Library/Caches`, on Windows `%LOCALAPPDATA%`.

    Source: XDG Base Directory Specification 0.8; Apple, File System Programming Guide; Microsoft, KNOWNFOLDERID.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / _FOLDER
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _FOLDER
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / _FOLDER
    return Path.home() / ".cache" / _FOLDER


def write_cache_file(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all; its folder is made when missing, and what killed writers left there removed.

    Raises:
        OSError: If the disk refuses; the old file, if any, is unchanged and nothing else is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_whole([(path, content)], mode=0o600)
