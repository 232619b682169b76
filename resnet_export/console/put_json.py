"""A report as JSON: printed, or written to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.errors import ExportError


def put_json(content: Any, path: str | Path = "-") -> None:
    """Print a report, or write it where `path` is not "-"; see `put_text`."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    if path == "-":
        print(text)
    else:
        put_text(f"{text}\n", Path(path))


def put_text(text: str, path: Path, mode: str = "w") -> None:
    r"""Write a report; a file name in it that is no UTF-8 becomes \udcXX, which JSON reads back.

    Raises:
        ExportError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as err:
        raise ExportError(f"{path} cannot be written: {err}") from err
