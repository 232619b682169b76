"""A model's file as libraries in C++ take it: by its name, which they want in UTF-8, else by its bytes."""

from __future__ import annotations

import os
from pathlib import Path


def name_or_bytes(path: str | Path) -> str | bytes:
    """Return a file's name; its content where the name is not UTF-8, as old archives and other systems have them."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return Path(name).read_bytes()
    return name
