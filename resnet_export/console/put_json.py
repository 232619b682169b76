"""A report as JSON: printed, or written to a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from exporter.errors import ExportError, OptionError
from resnet_export.console.option_types import file_to_write
from runtimes.io.atomic_write import write_whole

PRINTED = Path("-")
"""What `--json` holds where no file is named."""


def add_json_option(parser: argparse._ActionsContainer, what: str) -> None:
    """Add `--json` of a verb whose report is worth a file."""
    told = f"{what} as JSON, to a file, or printed instead of text"
    parser.add_argument("--json", nargs="?", const=str(PRINTED), type=file_to_write, metavar="FILE", help=told)


def prints_json(arguments: argparse.Namespace) -> bool:
    """Tell whether `--json` prints the report, instead of text.

    Raises:
        OptionError: If nothing shall be printed, too.
    """
    if arguments.quiet and arguments.json == PRINTED:
        raise OptionError("--quiet and --json contradict each other: --json prints the report; give it a file")
    return bool(arguments.json == PRINTED)


def put_json(content: Any, path: Path = PRINTED) -> None:
    """Print a report, or write it where `path` is not `PRINTED`; see `put_text`."""
    is_unicode = path != PRINTED or sys.stdout.encoding in (None, "utf-8", "UTF-8")  # JSON is, whatever a console takes
    text = json.dumps(content, indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    if path == PRINTED:
        print(text)
    else:
        put_text(f"{text}\n", path)


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
