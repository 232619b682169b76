"""Whatever names a model, or is one, to a PyTorch module with everything known about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.models.load_model import load_model
from exporter.models.loaded_model import LoadedModel, ModelRequest
from exporter.models.preprocessing_options import PreprocessingOptions


def load_any(
    model: Any,
    *,
    weights: str,
    num_classes: int | None,
    preprocessing: PreprocessingOptions,
    checkpoint_key: str | None = None,
    head_activation: str | None = None,
    judge: Callable[[LoadedModel], float] | None = None,
) -> LoadedModel:
    """Load a model by name or file, or take a `torch.nn.Module` as it is; the options are those of `ModelRequest`.

    Raises:
        ExportError, MissingDependencyError: See `load_model.load_model` and `module_source.load_module`.
    """
    if isinstance(model, (str, Path)):
        said = (weights, num_classes, preprocessing, checkpoint_key, head_activation)
        return load_model(ModelRequest(str(model), *said, judge=judge))
    from exporter.models.module_source import load_module

    return load_module(model, preprocessing, num_classes=num_classes)
