"""Dataclasses as JSON holds them: the one rule for every report, table and manifest that is written.

A dataclass becomes an object of its fields, in their order; an enum its value, a tuple an array. What has a form of its
own says so with `to_json`. The readers stand apart: files come from outside, and each checks what only it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar


class JsonFields:
    """Base of dataclasses whose JSON are their fields."""

    __slots__ = ()

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def to_json(self) -> dict[str, Any]:
        """Return every field, in order, as JSON holds it."""
        return json_fields(self)


def json_fields(instance: JsonFields) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON holds them, for a `to_json` that adds to them."""
    return {field.name: json_value(getattr(instance, field.name)) for field in fields(instance)}


def json_value(value: Any) -> Any:
    """Return a value as JSON holds it: dataclasses and mappings as objects, sequences as arrays, enums as their value.

    Numbers, strings, None and everything else stay as they are.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: json_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return value
