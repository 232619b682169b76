"""One picture of a source: a file that is there, or the bytes of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and its label.

    Attributes:
        name: File name; its suffix says the kind.
        label: Class name, or class index in decimal digits; None where nobody says.
        file: Where it is, if it is a file.
        content: Its bytes, if it is not.
    """

    name: str
    label: str | None
    file: Path | None = None
    content: bytes | None = None
