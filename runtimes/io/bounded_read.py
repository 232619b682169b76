"""Files from outside, read whole: never a pipe or device, which would block or never end, never beyond a limit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from runtimes.io.stand_in import stand_in

MAX_JSON_BYTES = 64 << 20
"""Far above every JSON file of ours (a calibration table has 20 to 500 kB), far below what would fill a device."""

_PIECE = 1 << 20


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: If it cannot be read, is no plain file, a `stand_in`, or beyond `max_bytes`; `strerror` says which.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "it is a folder, pipe or device", str(path))
    # Without O_NONBLOCK, opening a named pipe that nobody writes to waits forever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        content = bytearray()
        while piece := file.read(_PIECE):  # read(max_bytes) would allocate as much at once
            content += piece
            if len(content) > max_bytes:
                raise OSError(0, f"it is larger than {max_bytes:,} bytes", str(path))
    if told := stand_in(bytes(content[:_PIECE])):
        raise OSError(0, told, str(path))
    return bytes(content)


def read_json_file(path: Path) -> Any:
    """Return what a JSON file in UTF-8 holds.

    Raises:
        OSError: As `read_plain_file`, beyond `MAX_JSON_BYTES`.
        ValueError: If it is not UTF-8, not JSON, or nested so deeply that the parser's stack does not suffice.
    """
    return json_from_bytes(read_plain_file(path, MAX_JSON_BYTES))


def json_from_bytes(content: bytes) -> Any:
    """Return what JSON in UTF-8 holds.

    Raises:
        ValueError: If it is not UTF-8, not JSON, or nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as err:  # a bracket repeated 100 000 times
        raise ValueError("it is nested too deeply") from err
