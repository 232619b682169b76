"""Protocol buffers' text format, the few forms of it that a Triton configuration needs; written without protobuf.

Source: https://protobuf.dev/reference/protobuf/textformat-spec/ (fields, strings, repeated messages).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Union

Value = Union[str, int, bool, "Word", "Message"]


@dataclass(frozen=True, slots=True)
class Word:
    """The name of an enum's value, which is written without quotes."""

    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """Fields in the order they are written; a repeated field is one entry for each value."""

    fields: tuple[tuple[str, Value], ...]


def message(*fields: tuple[str, Value | Iterable[Value]]) -> Message:
    """Return a message; a value that is a list or tuple becomes one entry for each element."""
    flat: list[tuple[str, Value]] = []
    for name, value in fields:
        if isinstance(value, (list, tuple)):
            flat.extend((name, element) for element in value)
        else:
            flat.append((name, value))  # type: ignore[arg-type]  # what is no list is a value
    return Message(tuple(flat))


def text_from_message(content: Message, indent: str = "") -> str:
    """Return the text form, one field a line."""
    lines = []
    for name, value in content.fields:
        if isinstance(value, Message):
            lines += [f"{indent}{name} {{", text_from_message(value, indent + "  ").rstrip("\n"), f"{indent}}}"]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return "\n".join(line for line in lines if line) + "\n"


def _scalar(value: str | int | bool | Word) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Return a string literal: printable characters as UTF-8, everything else as octal bytes."""
    parts = []
    for character in text:
        if character in '"\\':
            parts.append(f"\\{character}")
        elif character.isprintable():
            parts.append(character)
        else:
            parts.extend(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
    return f'"{"".join(parts)}"'
