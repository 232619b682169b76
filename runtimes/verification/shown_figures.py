"""Figures as a person reads them, in pages, summaries and tables; a dash where nothing was measured."""

from __future__ import annotations


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as a person reads it."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def decibel(value: float | None) -> str:
    """Return an SQNR as a person reads it."""
    return "-" if value is None else f"{value:.1f} dB"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many significant digits."""
    return "-" if value is None else f"{value:.{digits}g}"


def size(num_bytes: int | None) -> str:
    """Return a file's size."""
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"
