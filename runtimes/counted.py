"""A number and what it counts, for a message."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 image", "2,000 images" or, with a plural of its own, "2 biases"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
