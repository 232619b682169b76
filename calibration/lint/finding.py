"""Rules, the target they are checked against, and their findings; findings of one kind are told as one.

A file with 53 UINT8 activations has one thing wrong with it, not 53.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Severity(Enum):
    """How bad a finding is; the value is SARIF's word for it (SARIF 2.1.0, section 3.27.10)."""

    ERROR = "error"
    """The target refuses the file, or computes something else than the file says."""
    WARNING = "warning"
    """The file runs, but slower or less accurately than it could."""
    NOTE = "note"
    """Worth knowing; nothing to repair."""

    @property
    def rank(self) -> int:
        """0 for an error, 2 for a note."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for.

    Attributes:
        id: Stable for ever, as `S004`: the family's letter and a number that is never given twice.
        name: In words with hyphens.
        severity: Of most of its findings; a finding may be milder or worse.
        summary: What the rule wants.
        remedy: What to do about a finding.
    """

    id: str
    name: str
    severity: Severity
    summary: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a rule: all places with the same message together.

    Attributes:
        message: What was found, with figures, in one sentence without its full stop.
        places: Where: layers and tensors in PyTorch's terms where the file's names allow, in graph order.
        nodes: The same places as the file calls them.
    """

    rule: Rule
    severity: Severity
    message: str
    places: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "rule": self.rule.id,
            "name": self.rule.name,
            "severity": self.severity.value,
            "message": self.message,
            "remedy": self.rule.remedy,
            "places": list(self.places),
            "nodes": list(self.nodes),
        }


@dataclass(frozen=True, slots=True)
class LintTarget:
    """One place where the file must load.

    Attributes:
        name: As on the command line.
        reads: The library in words.
        min_opset: The oldest opset that is worth trying.
        max_opset: The newest that it reads correctly.
        max_ir_version: The IR version released with `max_opset`.
        newest_opset: The newest that the newest library of it was seen to read, `max_opset` or more.
        newest_ir_version: The IR version released with that.
        newest_reader: That library and version.
        is_tensorrt: TensorRT's Q/DQ dialect, otherwise ONNX Runtime's.
        is_tensorrt_8: TensorRT 8.x, whose parser takes no axes from an input of ReduceMean, wants a zero point with
            every Q and DQ, and reads scales as float32.
    """

    name: str
    reads: str
    min_opset: int
    max_opset: int
    max_ir_version: int
    newest_opset: int
    newest_ir_version: int
    newest_reader: str = ""
    is_tensorrt: bool = True
    is_tensorrt_8: bool = False


Place = tuple[str, str]
"""Name of a place in PyTorch's terms, and in the file."""


class Grouped:
    """Collects places under messages; a message speaks of one of them."""

    def __init__(self) -> None:
        self._places: dict[tuple[Rule, Severity, str], list[Place]] = {}

    def add(self, rule: Rule, message: str, place: Place, *, severity: Severity | None = None) -> None:
        """Note one place under a message; `severity` where it is not the rule's."""
        self._places.setdefault((rule, severity or rule.severity, message), []).append(place)

    def findings(self) -> Iterator[Finding]:
        """Yield one finding per rule, severity and message, in the order in which they first came."""
        for (rule, severity, message), places in self._places.items():
            unique = list(dict.fromkeys(places))
            yield Finding(
                rule, severity, message, tuple(shown for shown, _ in unique), tuple(name for _, name in unique)
            )
