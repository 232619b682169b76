"""Arguments that are a word of the command, or the value that it stands for."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from calibration.methods.method import METHODS, Method, method_from_name
from exporter.target import TARGETS, Target


def method_of(given: str | Method) -> Method:
    """Return how ranges are chosen.

    Raises:
        ValueError: If no method has the name.
        TypeError: If it is neither a name nor a method.
    """
    if isinstance(given, str):
        return method_from_name(given)
    if not isinstance(given, Method):
        raise TypeError(f"method: got {given!r}, expected one of {', '.join(METHODS)}, or a calibration.Method")
    return given


def target_of(given: str | Target) -> Target:
    """Return where the files must load.

    Raises:
        ValueError: If no target has the name.
        TypeError: If it is neither a name nor a target.
    """
    if isinstance(given, str):
        return TARGETS.named(given)
    if not isinstance(given, Target):
        raise TypeError(f"target: got {given!r}, expected one of {', '.join(TARGETS)}, or an exporter.target.Target")
    return given


def class_numbers(given: Iterable[object] | None) -> tuple[int, ...] | None:
    """Return class indices as whole numbers of Python; NumPy's and PyTorch's are taken, 1.5 and "1" are not.

    Raises:
        TypeError: Naming the first that is no whole number, or what is no list.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"val_labels: got {type(given).__name__}, expected one class index for each image")
    return tuple(_class_number(place, label) for place, label in enumerate(given))


def _class_number(place: int, label: object) -> int:
    if not isinstance(label, bool):
        try:
            return operator.index(label)  # type: ignore[arg-type]  # whatever says that it is a whole number
        except TypeError:
            pass
    raise TypeError(f"val_labels[{place}]: got {label!r}, expected a class index, a whole number from 0 on")
