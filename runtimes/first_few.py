"""The first few of many names, for a message."""

from __future__ import annotations

from collections.abc import Iterable


def first_few(names: Iterable[object], most: int = 5) -> str:
    """Return "a, b, c and 4 more": at most `most` names, and how many others there are."""
    words = list(map(str, names))
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
