"""`--gate`: thresholds from words such as `agreement=0.97`, `int8.sqnr_db=25`, `top1_drop_pp=off`, and TOML files.

A TOML file holds the same, for every precision at the top and for one of them in its table:

    agreement = 0.98

    [int8]
    sqnr_db = 25
    top1_drop_pp = 0.5

    [fp16]
    max_abs_diff = 0.01
    agreement = false      # no such gate

What comes later wins; a word for one precision wins over one for all. What is not named keeps its default.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtimes.errors import MissingDependencyError, RuntimeAdapterError
from runtimes.verification.gates import DEFAULT_GATES, METRICS, Gate

ALL_PRECISIONS = ""
_OFF = ("off", "false", "none")


class GateOptionError(RuntimeAdapterError):
    """A gate that does not exist, a threshold that is none, or a gate file that cannot be read."""


@dataclass(frozen=True, slots=True)
class GateChoice:
    """Thresholds that were asked for.

    Attributes:
        asked: Precision, or "" for all, to gate's name to threshold; None takes a gate away.
        words: Precision to the first word `PRECISION.NAME=VALUE` that asks for a threshold. Tables of a file are not
            here: one file may serve bundles of several precisions.
    """

    asked: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def gates_for(self, precision: str) -> tuple[Gate, ...]:
        """Return the gates of a file of `precision`; "int8-fp16" has those of "int8".

        Raises:
            GateOptionError: If all of them were taken away: then nothing could fail.
        """
        kind = precision.partition("-")[0]
        asked = {**self.asked.get(ALL_PRECISIONS, {}), **self.asked.get(kind, {})}
        defaults = DEFAULT_GATES[kind]
        thresholds: dict[str, float | None] = {**defaults, **asked}
        gates = tuple(Gate(name, value, name in asked) for name, value in thresholds.items() if value is not None)
        if not gates:
            raise GateOptionError(f"every gate of {precision} is off; a file without gates cannot fail, so keep one")
        return gates

    def gates_of_files(self, precisions: Sequence[str]) -> tuple[tuple[Gate, ...], ...]:
        """Return the gates of every file, of these precisions, that is judged.

        Raises:
            GateOptionError: As `gates_for`; and if a word is about a precision that no file has: nobody would judge it.
        """
        kinds = {precision.partition("-")[0] for precision in precisions}
        if unjudged := next((word for kind, word in self.words.items() if kind not in kinds), None):
            raise GateOptionError(
                f"--gate {unjudged}: no file of that precision is judged, only {', '.join(precisions)}; leave it out, "
                "or give a bundle that holds one"
            )
        return tuple(map(self.gates_for, precisions))


def read_gates(words: Sequence[str]) -> GateChoice:
    """Return what `--gate` says, in order: NAME=VALUE, PRECISION.NAME=VALUE or the path of a TOML file, each.

    Raises:
        GateOptionError: If a word is none of these, or names what does not exist.
    """
    asked: dict[str, dict[str, float | None]] = {}
    named: dict[str, str] = {}
    for word in words:
        for precision, name, value in _settings(word):
            asked.setdefault(precision, {})[name] = threshold = _threshold(word, name, value)
            if precision != ALL_PRECISIONS and threshold is not None and not Path(word).is_file():
                named.setdefault(precision, word)
    return GateChoice(asked, named)


def _settings(word: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (precision, gate's name, value)."""
    name, equals, value = word.partition("=")
    if equals and not Path(word).is_file():
        precision, dot, last = name.strip().rpartition(".")
        if dot and precision not in DEFAULT_GATES:
            raise GateOptionError(
                f"--gate {word}: got precision {precision!r}, expected one of {', '.join(DEFAULT_GATES)}"
            )
        yield precision, last, value.strip()
        return
    for key, content in _read_toml(Path(word)).items():
        if isinstance(content, dict):
            if key not in DEFAULT_GATES:
                raise GateOptionError(f"{word}: got table [{key}], expected one of {', '.join(DEFAULT_GATES)}")
            for name, value in content.items():
                yield key, name, value
        else:
            yield ALL_PRECISIONS, key, content


def _threshold(word: str, name: str, value: Any) -> float | None:
    """Return a checked threshold, None for a gate that is taken away."""
    if name not in METRICS:
        raise GateOptionError(f"--gate {word}: unknown gate {name!r}; expected one of {', '.join(METRICS)}")
    if value is False or (isinstance(value, str) and value.lower() in _OFF):
        return None
    try:
        return Gate(name, float("true" if value is True else value)).threshold
    except (TypeError, ValueError, OverflowError) as err:
        problem = str(err) if "expected" in str(err) else f"gate {name}: got {value!r}, expected a number or off"
        raise GateOptionError(f"--gate {word}: {problem}") from err


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise GateOptionError(
            f"--gate {path}: neither NAME=VALUE nor a file that can be read ({err.strerror}); gates are "
            f"{', '.join(METRICS)}"
        ) from err
    loads = _toml_loads()
    try:
        parsed: dict[str, Any] = loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as err:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise GateOptionError(f"--gate {path}: not TOML: {err}") from err
    return parsed


def _toml_loads() -> Any:
    """Return the `loads` of Python 3.11's tomllib, or of tomli before."""
    for module in ("tomllib", "tomli"):
        with suppress(ImportError):
            return importlib.import_module(module).loads
    raise MissingDependencyError(
        "--gate FILE needs Python 3.11 or the package tomli (pip install tomli); NAME=VALUE works without"
    )
