"""Errors of calibration and quantization."""

from __future__ import annotations


class CalibrationError(Exception):
    """Base class of what `calibration` raises; the message says got, expected, what to do."""


class EmptyHistogramError(CalibrationError):
    """A histogram that saw no value has no amax."""


class NonFiniteActivationError(CalibrationError):
    """A tensor held NaN or Inf on a calibration image; the message names both."""


class PlacementError(CalibrationError):
    """Q/DQ cannot be placed: a scale is missing or the graph is not what the table was made for."""
