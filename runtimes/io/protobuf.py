"""Messages of protobuf without its library: a row of (number << 3 | kind, value); what nobody asks for is stepped over.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Give the bytes of a file, of which only those are read that are looked at.

    Raises:
        OSError, ValueError: If it cannot be read, or is empty.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        view = memoryview(whole)
        try:
            yield view
        finally:
            view.release()


def text(view: memoryview, span: object) -> str:
    """Return the text of a field; "" where there is none."""
    return bytes(view[span[0] : span[1]]).decode("utf-8", "replace") if isinstance(span, tuple) else ""


def fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: an int, or (start, end) of what has a length.

    Raises:
        IndexError, ValueError: If it is no message of protobuf.
    """
    place = start
    while place < end:
        key, place = _varint(view, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(view, place)
            yield key >> 3, value
        elif kind == _BYTES:
            length, place = _varint(view, place)
            yield key >> 3, (place, place + length)
            place += length
            if place > end:
                raise ValueError("a field that is longer than its message")
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
