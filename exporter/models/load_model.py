"""MODEL and its weights -> a PyTorch module in evaluation mode with everything known about it.

Each source (torchvision, timm, our own networks, a Python object, a checkpoint that tells its architecture) is a module
with one function `load(request) -> LoadedModel`. This one picks the source by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.errors import PreprocessingError, WeightsError
from exporter.models.loaded_model import DEFAULT_WEIGHTS, LoadedModel, ModelRequest, is_weights_file, told_features
from exporter.models.model_names import AUTO, ONNX_FILE, OWN, PYTHON_OBJECT, TIMM, TORCHVISION
from exporter.preprocessing.options import PreprocessingOptions, wrong_channels
from exporter.temporary_folder import require_temporary_folder
from runtimes.errors import MissingDependencyError

_SOURCES: Mapping[str, str] = {
    TORCHVISION: "exporter.models.torchvision_source",
    TIMM: "exporter.models.timm_source",
    OWN: "exporter.models.builtin_source",
    PYTHON_OBJECT: "exporter.models.python_source",
    AUTO: "exporter.recognition.auto_source",
    ONNX_FILE: "exporter.models.onnx_source",
}
"""Source to module; a family of another source is built by its own architecture, as our networks are."""


def load_model(request: ModelRequest) -> LoadedModel:
    """Build the network and load its weights.

    Raises:
        UnknownModelError: If there is no such model.
        AmbiguousModelError: If MODEL is "auto" and the checkpoint does not say which it is.
        ModelObjectError: If a Python object cannot be imported, called, or gives no usable module.
        PreprocessingError: If nothing tells how images are prepared.
        OnnxFileError: If MODEL is an ONNX file that cannot be exported.
        WeightsError: If the weights are missing, do not fit, or are not finite.
        MissingDependencyError: If torch, torchvision or timm is needed and not installed.
        ExportError: If PyTorch finds no temporary folder.
    """
    source = request.reference.source
    if source == ONNX_FILE or not is_weights_file(request.weights):
        held = "an ONNX file holds its weights" if source == ONNX_FILE else f"--weights {request.weights} is none"
        _refuse_file_options(request.checkpoint_key, request.head_activation, held)
    if source != ONNX_FILE:
        require_temporary_folder()
    try:
        load: Callable[[ModelRequest], LoadedModel] = importlib.import_module(_SOURCES.get(source, _SOURCES[OWN])).load
    except ImportError as err:
        if source == TIMM and (err.name or "").partition(".")[0] == "timm":
            raise MissingDependencyError(
                f'{request.name} is a model of timm, which is not installed; pip install "resnet-export[timm]"'
            ) from err
        raise MissingDependencyError(
            f'exporting needs PyTorch and torchvision ({err}); pip install "resnet-export[export]"'
        ) from err
    loaded = load(request)
    if source == AUTO:
        return loaded  # another source made it, with the options applied
    from exporter.models.input_channels import in_color_order

    loaded = in_color_order(loaded, request.preprocessing)
    if request.preprocessing.channels not in (None, loaded.preprocessing.channels):
        raise PreprocessingError(
            wrong_channels(request.name, loaded.preprocessing.channels, request.preprocessing.channels or 0)
        )
    preprocessing = request.preprocessing.applied_to(loaded.preprocessing)
    if preprocessing == loaded.preprocessing:
        return loaded
    source = f"{loaded.preprocessing_source}; changed by the command line"
    return replace(loaded, preprocessing=preprocessing, preprocessing_source=source)


def load_any(
    model: Any,
    *,
    weights: str,
    num_classes: int | None,
    preprocessing: PreprocessingOptions,
    checkpoint_key: str | None = None,
    head_activation: str | None = None,
    outputs: tuple[str, ...] = (),
    checks_output: bool = True,
    judge: Callable[[LoadedModel], float] | None = None,
) -> LoadedModel:
    """Load a model by name or file, or take a `torch.nn.Module` as it is; the options are those of `ModelRequest`.

    Raises:
        ExportError, MissingDependencyError: See `load_model` and `module_source.load_module`.
    """
    if isinstance(model, (str, Path)):
        said = (weights, num_classes, preprocessing, checkpoint_key, head_activation, outputs, checks_output)
        loaded = load_model(ModelRequest(str(model), *said, judge=judge))
    else:
        from exporter.models.module_source import load_module

        if weights != DEFAULT_WEIGHTS:
            raise WeightsError(
                f"got a module and the weights {weights!r}; a module brings its own: call module.load_state_dict(...) "
                "with them first, or give the model by its name"
            )
        _refuse_file_options(checkpoint_key, head_activation, "a module brings its own weights")
        loaded = load_module(
            model, preprocessing, num_classes=num_classes, outputs=outputs, checks_output=checks_output
        )
    if loaded.source == ONNX_FILE:
        return loaded
    from exporter.networks.unfused_branches import unfused_branches_told

    if (told := unfused_branches_told(loaded.module)) is not None:
        loaded = replace(loaded, warnings=(*loaded.warnings, told))
    if not checks_output or not loaded.gives_logits or num_classes is not None:
        return loaded
    return _as_features(loaded)


def _refuse_file_options(checkpoint_key: str | None, head_activation: str | None, why: str) -> None:
    """Raise where something is said of a file of weights, and there is none."""
    asked = {"--checkpoint-key": checkpoint_key, "--head-activation": head_activation}
    if given := [f"{option} {value}" for option, value in asked.items() if value is not None]:
        raise WeightsError(f"{given[0]} says how a file of weights is read, and {why}; leave it out, or give the file")


def _as_features(loaded: LoadedModel) -> LoadedModel:
    """Return a network without a classifier as one that gives features, with a warning; another unchanged."""
    from exporter.checkpoints.missing_head import why_features

    if (why := why_features(loaded.module, loaded.preprocessing.input_shape)) is None:
        return loaded
    others = tuple(warning for warning in loaded.warnings if "the file has no classifier" not in warning)
    warnings = (*others, told_features(loaded.num_classes, why))
    return replace(loaded, outputs=("features",), labels=None, gives_logits=False, warnings=warnings)
