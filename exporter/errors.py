"""Errors of the export side: model sources, checkpoints, folding, tracing, bundles on disk."""

from __future__ import annotations


class ExportError(Exception):
    """Base class of what `exporter` raises; the message says got, expected, what to do."""


class UnknownModelError(ExportError):
    """No model of that name; the message suggests near names."""


class WeightsError(ExportError):
    """Weights are missing, cannot be downloaded, do not fit, or hold NaN or Inf."""


class UnsafeCheckpointError(WeightsError):
    """A checkpoint that could run code when loaded; it was not loaded."""


class NonFiniteTensorError(ExportError):
    """A tensor holds NaN or Inf on real images; the message names it."""


class UnsupportedOpsetError(ExportError):
    """The opset asked for does not fit the target."""


class ExportCheckError(ExportError):
    """The exported file does not answer like the PyTorch model; nothing was written."""


class AccuracyBudgetError(ExportCheckError):
    """INT8 does not keep the accuracy asked for, whatever stays in float; nothing was written."""


class OutputExistsError(ExportError):
    """The output folder exists and `--force` was not given."""


class EngineBuildError(ExportError):
    """TensorRT did not parse or build the model; the message carries TensorRT's own last errors."""
