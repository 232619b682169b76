"""Check types of JSON values before they are used: files from outside hold anything under the right keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

_JSON_NAMES = {Mapping: "object", dict: "object", str: "string", int: "whole number", list: "array", bool: "boolean"}


def check_kinds(values: Mapping[str, object], kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise unless every value is of one of its kinds; a boolean is no number.

    Raises:
        TypeError: Naming the first that is not, with got and expected.
        ValueError: If a number is not finite.
    """
    for name, kind in kinds.items():
        value, wanted = values[name], kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            expected = " or ".join(dict.fromkeys(_name(one) for one in wanted))
            raise TypeError(f"{name}: got {_name(type(value))}, expected {expected}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: got {value}, expected a finite number")


def finite(name: str, value: object) -> float:
    """Return a number that float64 holds.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is NaN, infinite, or a whole number beyond float64.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: got {_name(type(value))}, expected number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: got {'a number beyond float64' if isinstance(value, int) else value}")
    return number


def _name(kind: type) -> str:
    return "number" if kind is float else "null" if kind is type(None) else _JSON_NAMES.get(kind, kind.__name__)
