"""Words of the command line to checked values, for every verb; a wrong word is told by argparse with exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from runtimes.bundle.manifest import BatchRange
from runtimes.inference.runtime_kind import MAX_THREADS
from runtimes.inference.runtime_registry import AUTO, RUNTIMES, runtime_word
from runtimes.io.writable import why_not_writable
from runtimes.preprocessing.transform import Interpolation

T = TypeVar("T")


def positive(text: str) -> int:
    """Return a whole number >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number >= 1")
    return value


def thread_count(text: str) -> int:
    """Return how many threads a model may have."""
    if (value := positive(text)) > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected at most {MAX_THREADS} threads")
    return value


def percentage_points(text: str) -> float:
    """Return percentage points from 0 to below 100."""
    return _number(text, lambda value: 0 <= value < 100, "percentage points from 0 to 100, such as 0.5")


def share(text: str) -> float:
    """Return a share above 0, at most 1."""
    return _number(text, lambda value: 0 < value <= 1, "a share above 0 and at most 1, such as 0.99")


def probability(text: str) -> float:
    """Return a probability below 1."""
    return _number(text, lambda value: 0 <= value < 1, "a probability from 0 to below 1")


def seconds(text: str) -> float:
    """Return a finite time > 0."""
    return _number(text, lambda value: 0 < value < float("inf"), "seconds > 0")


def _number(text: str, holds: Callable[[float], bool], expected: str) -> float:
    with contextlib.suppress(ValueError):
        if holds(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")


def file_to_write(text: str) -> Path:
    """Return where a report goes, which can be written: told before the work, not after it."""
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"got the folder {text!r}, expected the name of a file to write")
    is_pipe = os.path.exists(text) and not os.path.isfile(text)  # or a device, opened when there is something to say
    if text != "-" and not is_pipe and (reason := why_not_writable(Path(os.path.realpath(text)))):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {reason}; choose another file")
    return Path(text)


def file_to_append(text: str) -> Path:
    """Return where a report goes behind what is there: a file that may be written, in whatever folder, or a new one."""
    return Path(text) if os.path.isfile(text) and os.access(text, os.W_OK) else file_to_write(text)


def batch_range(text: str) -> BatchRange:
    """Return MIN,OPT,MAX; N is N,N,N."""
    try:
        sizes = [int(word) for word in text.split(",")]
        if len(sizes) == 1:
            sizes *= 3
        if len(sizes) != 3:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected MIN,OPT,MAX such as 1,8,32, or one size")
        return BatchRange(*sizes)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX") from err


def resize(text: str) -> int | tuple[int, int]:
    """Return a side N (of a resized picture the shorter one), or exactly HxW."""
    height, times, width = text.lower().partition("x")
    return (positive(height), positive(width)) if times else positive(text)


def per_channel(text: str) -> tuple[float, ...]:
    """Return one number per channel: R,G,B; one for grey; N for bands."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a number per channel: three numbers R,G,B; one for grey"
        ) from err


def scale(text: str) -> float:
    """Return what levels are multiplied by: a number > 0, or 1/N."""
    top, over, bottom = text.partition("/")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if (value := float(top) / (float(bottom) if over else 1.0)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"got {text!r}, expected what 8-bit levels are multiplied by: 1/255, 1, 1/127.5")


def interpolation(text: str) -> Interpolation:
    """Return how pixels of a resized picture are computed."""
    try:
        return Interpolation(text)
    except ValueError as err:
        known = ", ".join(known.value for known in Interpolation)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected one of {known}") from err


def capabilities(text: str) -> tuple[str, ...]:
    """Return compute capabilities such as 8.6,8.9."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(word.replace(".", "", 1).isdigit() and "." in word for word in words):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected compute capabilities such as 8.6,8.9")
    return words


def sizes(text: str) -> tuple[int, ...]:
    """Return whole numbers >= 1 separated by commas."""
    return tuple(positive(word) for word in names(text))


def names(text: str) -> tuple[str, ...]:
    """Return names separated by commas."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names separated by commas")
    return words


def some_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return the type of an option that takes some of `known`, separated by commas."""

    def option(text: str) -> tuple[str, ...]:
        words = names(text)
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"got {unknown[0]!r}, expected some of {', '.join(known)}")
        return words

    return option


def by_name(find: Callable[[str], T]) -> Callable[[str], T]:
    """Return `find` as the type of an option, which tells its ValueError."""

    def option(text: str) -> T:
        try:
            return find(text)
        except ValueError as err:
            raise argparse.ArgumentTypeError(str(err).removeprefix("provider: ")) from err

    return option


runtime = by_name(runtime_word)
"""The word of a runtime or "auto"; ONNX Runtime's own names are understood too."""


def runtime_of_files(text: str) -> str:
    """Return the word of a runtime; "auto", which chooses a file too, is none here."""
    if text == AUTO:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected one that runs every file: {', '.join(RUNTIMES)}")
    return runtime(text)


def runtime_words() -> str:
    """Return every word that `runtime` takes, for help."""
    return "|".join((AUTO, *RUNTIMES))
