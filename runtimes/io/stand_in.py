"""What lies under a file's name in its stead: a pointer that a clone left there, a web page that a download got."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_WEB_PAGE = "it is a web page (of an error or a login?), not the file itself: download it again"
_BEGINNINGS = {
    b"version https://git-lfs.github.com/": "it is a Git LFS pointer, not the file itself: git lfs pull fetches it",
    b"/annex/objects/": "it is a git-annex pointer, not the file itself: git annex get fetches it",
    b"outs:\n- ": "it is a DVC pointer, not the file itself: dvc pull fetches it, under this name without .dvc",
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
"""Source: docs/spec.md of git-lfs; git-annex.branchable.com/internals/pointer_file; dvc.org, User Guide, .dvc files."""


def stand_in(start: bytes) -> str:
    """Return what a file that begins with these bytes is instead of itself, and what fetches it; "" for any other."""
    start = start[:256].lstrip().lower()
    return next((words for beginning, words in _BEGINNINGS.items() if start.startswith(beginning)), "")


def stand_in_at(path: Path) -> str:
    """Return `stand_in` of a file; "" where it is no plain file that can be read."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return stand_in(file.read(256))
    return ""
