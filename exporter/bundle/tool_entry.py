"""What wrote a file: `tool` of manifests, engine sidecars and verify's reports."""

from __future__ import annotations

from datetime import datetime, timezone

from exporter.version import __version__

TOOL_NAME = "resnet-export"
"""A folder whose manifest names another tool is not ours."""


def tool_entry() -> dict[str, str]:
    """Return name and version of this tool, and the time, UTC, ISO 8601."""
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"name": TOOL_NAME, "version": __version__, "created": created}
