"""Errors of the export side: model sources, checkpoints, folding, tracing, bundles on disk."""

from __future__ import annotations


class ExportError(Exception):
    """Base class of what `exporter` raises; the message says got, expected, what to do."""


class OptionError(ExportError, ValueError):
    """Options that contradict each other or have no such value; the message names them as the command does."""


class KnownBadLibrariesError(ExportError):
    """Versions of libraries are installed that are known to fail or to answer wrongly; the message names them."""


class UnknownModelError(ExportError):
    """No model of that name; the message suggests near names."""


class AmbiguousModelError(ExportError):
    """MODEL is `auto` and the checkpoint fits no known architecture, or several; the message lists them and why."""


class ModelObjectError(ExportError):
    """A Python object given as MODEL cannot be imported, called, or gives no usable module."""


class PreprocessingError(ExportError):
    """Nothing tells how images are prepared, or the options contradict each other."""


class WeightsError(ExportError):
    """Weights are missing, cannot be downloaded, do not fit, or hold NaN or Inf."""


class UnsafeCheckpointError(WeightsError):
    """A checkpoint that could run code when loaded; it was not loaded."""


class OnnxFileError(ExportError):
    """A file given as MODEL is no whole, float32, not yet quantized ONNX classifier; the message says what it is."""


class FeatureError(ExportError):
    """A name of `--features` is no module of the network, or gives no tensor."""


class NonFiniteTensorError(ExportError):
    """A tensor holds NaN or Inf on real images; the message names it."""


class UnstableAnswerError(ExportError):
    """An answer depends on chance, or on the other pictures of its batch; the message names the layer or tensor."""


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


class EngineCheckError(ExportCheckError):
    """An engine was built and does not hold what was asked of it."""
