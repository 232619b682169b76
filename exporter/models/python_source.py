"""A Python object as MODEL: `package.module:name`, a module or a callable without arguments that returns one.

The current folder can be imported from, as with `python -m`. The object is the user's own code and is run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.errors import ModelObjectError, WeightsError
from exporter.models.architecture import Architecture, load_file, load_random
from exporter.models.loaded_model import DEFAULT_WEIGHTS, RANDOM_SEED, RANDOM_WEIGHTS, LoadedModel, ModelRequest
from exporter.models.loaded_model import is_weights_file as is_file
from exporter.models.module_outputs import tensors_given, with_outputs
from exporter.networks.float_module import check_is_float
from exporter.networks.plain_module import plain_module, store_computed_weights, unwrapped


def load(request: ModelRequest) -> LoadedModel:
    """Import the object, call it and load its weights; see `exporter.models.load_model.load_model`.

    Weights "DEFAULT" are those that it comes with, "random" those of one fixed seed.

    Raises:
        ModelObjectError: If it cannot be imported or called, or gives no module that takes images and gives tensors.
    """
    reference = request.reference
    found = _imported(reference.name)
    if request.weights not in (DEFAULT_WEIGHTS, RANDOM_WEIGHTS) and not is_file(request.weights):
        raise WeightsError(
            f"{reference.name} has no published weights {request.weights!r}; give a file (.pth, .pt, .safetensors), "
            "DEFAULT (as the object comes) or random"
        )
    takes_num_classes = _takes_num_classes(reference.name, found)

    def build(num_classes: int) -> nn.Module:
        return _module(reference.name, found, num_classes if takes_num_classes else None)

    architecture = Architecture(
        model_id=reference.model_id,
        source="python",
        build=build,
        num_classes=request.num_classes or 1000,
        preprocessing=None,
        preprocessing_source=f"nothing tells how images are prepared for {reference.name}",
    )
    if request.weights not in (DEFAULT_WEIGHTS, RANDOM_WEIGHTS):
        loaded = load_file(architecture, request)
    else:
        if takes_num_classes and request.num_classes is None:
            if inspect.signature(found).parameters["num_classes"].default is inspect.Parameter.empty:
                raise ModelObjectError(f"{reference.name}: it needs the argument num_classes; pass --num-classes N")
            architecture = replace(architecture, build=lambda _: _module(reference.name, found, None))
        module = architecture.seeded(architecture.num_classes)
        preprocessing = request.preprocessing.complete(architecture.preprocessing_source)
        tensors_given(module, torch.zeros(2, *preprocessing.input_shape), reference.name)  # raises with what it takes
        loaded = load_random(architecture, request)
        if request.weights == DEFAULT_WEIGHTS:
            words = f"as {reference.name} gives them (seed {RANDOM_SEED})"
            loaded = replace(loaded, weights=words, notes=architecture.notes)
    return checked(loaded, reference.name, request)


def _imported(name: str) -> Any:
    """Return the object that `package.module:name` means."""
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as err:  # importing runs the user's code, which may raise anything; it is chained
        raise ModelObjectError(
            f"{name}: {module_name} cannot be imported ({type(err).__name__}: {err}); run in the folder that holds it, "
            "or install it; a library's model is torchvision:NAME or timm:NAME"
        ) from err
    for step in path.split("."):
        if not hasattr(found, step):
            callables = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            near = f"; it has {', '.join(callables[:8])}" if callables else ""
            raise ModelObjectError(f"{name}: {module_name} has no {path!r}{near}")
        found = getattr(found, step)
    if not isinstance(found, nn.Module) and not callable(found):
        raise ModelObjectError(
            f"{name}: got a {type(found).__name__}, expected a module, or a callable that returns one"
        )
    return found


def _takes_num_classes(name: str, found: Any) -> bool:
    """Tell whether the callable has an argument `num_classes`; raise if it cannot be called without others."""
    if isinstance(found, nn.Module):
        return False
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature; calling tells
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in variadic
        and parameter.name != "num_classes"
    ]
    if needed:
        raise ModelObjectError(
            f"{name}: it needs the arguments {', '.join(needed)}; give a callable without (write a function that calls "
            "it with the right ones)"
        )
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return "num_classes" in parameters and parameters["num_classes"].kind in keyword


def _module(name: str, found: Any, num_classes: int | None) -> nn.Module:
    """Return the module: the object itself, or what it returns."""
    if isinstance(found, nn.Module):
        return _on_cpu(name, found)
    try:
        module = found() if num_classes is None else found(num_classes=num_classes)
    except (Exception, SystemExit) as err:  # the user's code may raise anything; all of it is chained
        raise ModelObjectError(f"{name}: calling it raised {type(err).__name__}: {err}") from err
    if not isinstance(module, nn.Module):
        raise ModelObjectError(f"{name}: it returned a {type(module).__name__}, expected a torch.nn.Module")
    return _on_cpu(name, module)


def _on_cpu(name: str, module: nn.Module) -> nn.Module:
    """Return `module` if its weights are where PyTorch puts them now: on the CPU, or "meta" while shapes are asked."""
    module = unwrapped(module)
    check_is_float(module, name)
    found = {str(tensor.device) for tensor in module.state_dict().values()}
    if devices := found - {"cpu", str(torch.get_default_device())}:
        raise ModelObjectError(f"{name}: its weights are on {', '.join(sorted(devices))}, expected cpu; call .cpu()")
    try:
        return plain_module(module)
    except Exception as err:  # copying runs the user's code, which may raise anything; all of it is chained
        raise ModelObjectError(f"{name}: it cannot be copied ({type(err).__name__}: {err})") from err


def checked(loaded: LoadedModel, name: str, request: ModelRequest) -> LoadedModel:
    """Return `loaded` with what it gives: logits of so many classes, or the tensors that were asked for.

    Weights that a parametrization computes become weights.

    Raises:
        ModelObjectError: If it takes no images, gives no tensors, or not as many classes as asked for.
    """
    store_computed_weights(loaded.module)
    if not request.checks_output:
        return loaded
    images = torch.zeros(2, *loaded.preprocessing.input_shape)
    given = with_outputs(loaded, images, name, request.outputs)
    if given.gives_logits and request.num_classes not in (None, given.num_classes):
        raise ModelObjectError(
            f"{name}: it has {given.num_classes} classes, --num-classes asks for {request.num_classes}"
        )
    return given
