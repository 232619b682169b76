"""A report as JSON: printed, or written to a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from runtimes.io.atomic_write import write_whole


def put_json(content: Any, path: str | Path = "-") -> None:
    """Print a report, or write it where `path` is not "-"; see `put_text`."""
    is_unicode = path != "-" or sys.stdout.encoding in (None, "utf-8", "UTF-8")  # JSON is, whatever a console takes
    text = json.dumps(content, indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    if path == "-":
        print(text)
    else:
        put_text(f"{text}\n", Path(path))


def put_text(text: str, path: Path) -> None:
    r"""Write a report, whole or not at all; a file name in it that is no UTF-8 becomes \udcXX, which JSON reads back.

    Raises:
        ExportError: If the file cannot be written; an old one is unchanged then.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout: nothing there to keep
            path.write_bytes(content)
        else:
            write_whole([(path.resolve(), content)])
    except OSError as err:
        raise ExportError(f"{path} cannot be written: {err}") from err


def append_text(text: str, path: Path) -> None:
    """Write a report behind what a file holds, as a CI job's summary is written.

    Raises:
        ExportError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as err:
        raise ExportError(f"{path} cannot be written: {err}") from err
