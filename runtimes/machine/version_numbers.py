"""The numbers of a version, for comparing."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the release's numbers, (0,) where `version` is none: (2, 13, 0) of "2.13.0+cpu"."""
    try:
        return Version(version).release
    except InvalidVersion:
        return (0,)
