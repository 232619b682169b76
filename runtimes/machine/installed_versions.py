"""Which versions of libraries are installed, for reports: nothing is imported to ask."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return name to version of those distributions that are installed, in the order of `names`."""
    from importlib import metadata  # here: it is slow to import, and `--help` needs none

    found: dict[str, str] = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            if version := metadata.version(name):  # a dist-info folder without METADATA gives None
                found[name] = version
    return found
