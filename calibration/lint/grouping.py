"""Findings of the same kind told as one: a file with 53 UINT8 activations has one thing wrong with it, not 53."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.lint.finding import Finding, Rule, Severity

Place = tuple[str, str]
"""What a place is called in PyTorch's terms, and in the file."""


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
                rule,
                severity,
                message,
                tuple(shown for shown, _ in unique),
                tuple(name for _, name in unique),
            )
