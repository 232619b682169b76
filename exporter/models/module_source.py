"""A `torch.nn.Module` as MODEL, handed over from Python with the weights it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.checkpoints.checkpoint import state_dict_sha256
from exporter.errors import ModelObjectError, WeightsError
from exporter.models.input_channels import in_color_order
from exporter.models.loaded_model import LoadedModel, ModelRequest
from exporter.models.python_source import checked
from exporter.networks.float_module import check_is_float
from exporter.networks.plain_module import plain_module, unwrapped
from exporter.preprocessing.options import PreprocessingOptions
from runtimes.preprocessing.transform import Preprocessing


def load_module(
    module: nn.Module,
    options: PreprocessingOptions,
    *,
    num_classes: int | None = None,
    name: str | None = None,
    outputs: tuple[str, ...] = (),
    checks_output: bool = True,
) -> LoadedModel:
    """Return a module as a model source: a copy in evaluation mode on the CPU; the caller's stays as it is.

    Args:
        module: From images float32 [N, C, H, W] to logits [N, classes]; its weights are float32 and finite.
        options: What is said about preprocessing. A module of timm says it itself where this does not.
        num_classes: Number of logits to insist on.
        outputs: Which of its outputs are wanted, where it gives several.
        checks_output: Whether what it gives matters.
        name: What folders and the manifest call it; the class's name by default.

    Raises:
        ModelObjectError: If it cannot be copied, takes no images, or gives no logits.
        PreprocessingError: If nothing tells how its images are prepared.
        WeightsError: If its weights are not float32, or hold NaN or Inf.
    """
    module = unwrapped(module)
    known_as = name or type(module).__name__
    check_is_float(module, known_as)
    _check_weights(module, known_as)
    preprocessing, origin = _preprocessing(module, options, known_as)
    try:
        copied = plain_module(module).cpu()
    except Exception as err:  # copying runs the user's code, which may raise anything; all of it is chained
        raise ModelObjectError(f"{known_as}: it cannot be copied ({type(err).__name__}: {err})") from err
    loaded = LoadedModel(
        module=copied,
        model_id=known_as,
        source="python",
        weights=f"as the {type(module).__name__} has them",
        weights_sha256=state_dict_sha256(copied.state_dict()),
        preprocessing=preprocessing,
        preprocessing_source=origin,
        num_classes=num_classes or 1,
        labels=None,
    )
    request = ModelRequest(
        "module", num_classes=num_classes, preprocessing=options, outputs=outputs, checks_output=checks_output
    )
    return in_color_order(checked(loaded, known_as, request), options)


def _check_weights(module: nn.Module, name: str) -> None:
    for key, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        if tensor.is_meta:
            raise WeightsError(f'{name}: {key} has no values (device "meta"); load weights into the module first')
        if tensor.dtype != torch.float32:
            raise WeightsError(f"{name}: {key} is {tensor.dtype}, expected torch.float32; call .float() first")
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{name}: {key} holds NaN or Inf")


def _preprocessing(module: nn.Module, options: PreprocessingOptions, name: str) -> tuple[Preprocessing, str]:
    config: Any = getattr(module, "pretrained_cfg", None)
    if isinstance(config, dict) and type(module).__module__.partition(".")[0] == "timm":
        import timm.data

        from exporter.preprocessing.timm_data_config import preprocessing_from_data_config

        known = preprocessing_from_data_config(timm.data.resolve_model_data_config(module))
        changed = options.applied_to(known)
        return changed, "timm's configuration of the module" + ("" if changed == known else ", changed by the caller")
    return options.complete(f"nothing tells how images are prepared for {name}"), "the caller"
