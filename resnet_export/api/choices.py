"""Arguments that are a word of the command, or the value that it stands for."""

from __future__ import annotations

import os

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


def word_or_path(what: str, given: str | os.PathLike[str], words: str) -> str:
    """Return a word or a path as text.

    Args:
        what: The argument's name, for the message.
        given: What was given for it.
        words: What else than a path was expected, for the message.

    Raises:
        TypeError: If it is neither text nor a path.
    """
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise TypeError(f"{what}: got {given!r}, expected {words} or a path")
    return text
