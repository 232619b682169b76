"""What a rule is and what it found."""

from __future__ import annotations

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
    """What one rule found, all places with the same message together.

    Attributes:
        rule: The rule.
        severity: Of this finding.
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
