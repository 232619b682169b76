"""Inputs and outputs of a user's module: one picture in; logits, or tensors of any shape under names, out.

A module may give a tensor, a tuple or a dict. Which of several is exported is for the user to say.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import ModelObjectError, PreprocessingError
from exporter.models.loaded_model import LoadedModel
from exporter.preprocessing.options import wrong_channels


def tensors_given(module: nn.Module, images: Tensor, name: str) -> dict[str, Tensor]:
    """Return the tensors that `module` gives for `images`, by name: keys of a dict, places in a tuple.

    Raises:
        ModelObjectError: If it does not take one batch of pictures, or gives something else than tensors.
        PreprocessingError: If its pictures have another number of channels.
    """
    _check_one_input(module, name)
    try:
        with torch.inference_mode():
            given = module(images)
    except (Exception, SystemExit) as err:  # the user's code may raise anything; all of it is chained
        if (taken := _channels_of_first_convolution(module, images)) not in (None, images.shape[1]):
            raise PreprocessingError(wrong_channels(name, taken or 0, images.shape[1])) from err
        raise ModelObjectError(
            f"{name}: it does not take images of float32 {list(images.shape)}: {type(err).__name__}: "
            f"{str(err).strip() or 'no message'}{_hint(module)}"
        ) from err
    found = _by_name(given)
    if odd := [key for key, value in found.items() if not isinstance(value, Tensor)]:
        raise ModelObjectError(
            f"{name}: its output {odd[0]!r} is a {type(found[odd[0]]).__name__}, expected tensors; give a callable "
            "whose module returns tensors only"
        )
    if not found:
        raise ModelObjectError(f"{name}: its output is an empty {type(given).__name__}, expected logits [N, classes]")
    return found


def _channels_of_first_convolution(module: nn.Module, images: Tensor) -> int | None:
    """Return what the convolution takes that the pictures themselves reach; None where another layer comes first."""
    taken: list[int] = []

    def look(convolution: nn.Module, given: tuple[Any, ...]) -> None:
        if not taken and given and isinstance(given[0], Tensor) and given[0].shape == images.shape:
            taken.append(int(convolution.in_channels))  # type: ignore[arg-type]

    handles = [child.register_forward_pre_hook(look) for child in module.modules() if isinstance(child, nn.Conv2d)]
    try:
        with suppress(Exception), torch.inference_mode():  # fails as before; what was seen until then is the answer
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return taken[0] if taken else None


def _check_one_input(module: nn.Module, name: str) -> None:
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY)
    ]
    if len(needed) > 1:
        raise ModelObjectError(
            f"{name}: its forward takes {len(needed)} inputs ({', '.join(needed)}), expected one, a batch of pictures "
            "[N, C, H, W]; export the branch that takes one picture as a module of its own"
        )


def _hint(module: nn.Module) -> str:
    if any(isinstance(child, nn.Conv3d) for child in module.modules()):
        return "; it holds Conv3d, so it takes videos [N, C, T, H, W], which are not exported here: pictures are"
    return ""


def _by_name(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    if isinstance(given, (tuple, list)):
        return {str(place): value for place, value in enumerate(given)}
    return {"": given}


def with_outputs(loaded: LoadedModel, images: Tensor, name: str, wanted: tuple[str, ...]) -> LoadedModel:
    """Return `loaded` with a module that gives the wanted tensors, and what they are.

    Args:
        loaded: Any module; its class is replaced where it gives more than a tensor, so that paths in it stay.
        images: float32 [2, C, H, W].
        name: For messages.
        wanted: Names among those of `tensors_given`; empty for the only one.

    Raises:
        ModelObjectError: As `tensors_given`; if there are several and none is wanted; or a wanted one is not there.
    """
    found = tensors_given(loaded.module, images, name)
    shown = ", ".join(f"{key or 'output'} {list(value.shape)}" for key, value in found.items())
    if missing := [key for key in wanted if key not in found]:
        raise ModelObjectError(f"{name}: --outputs {missing[0]}: it has no such output; it gives {shown} for 2 images")
    if not wanted and len(found) > 1:
        raise ModelObjectError(
            f"{name}: it gives {len(found)} tensors ({shown} for 2 images); say which with --outputs NAME, or several "
            f"as --outputs {','.join(list(found)[:2])}"
        )
    keys = wanted or tuple(found)
    for key in keys:
        value = found[key]
        if value.ndim < 2 or value.shape[0] != len(images) or not value.is_floating_point():
            raise ModelObjectError(
                f"{name}: its output{' ' * bool(key)}{key} is {value.dtype} {list(value.shape)} for "
                f"{len(images)} images, expected logits [{len(images)}, classes] or maps [{len(images)}, C, ...]"
            )
    if keys != ("",):
        loaded.module.__class__ = _giving(type(loaded.module), keys)
    first = found[keys[0]]
    if len(keys) == 1 and first.ndim == 2:
        return replace(loaded, num_classes=int(first.shape[1]))
    names = tuple(_tensor_name(key) for key in keys)
    if alike := [place for place, own in enumerate(names) if own in names[:place]]:
        raise ModelObjectError(
            f"{name}: --outputs: {keys[alike[0]]!r} would be called {names[alike[0]]!r}, as another one is; rename one"
        )
    return replace(loaded, num_classes=int(first.shape[1]), outputs=names, labels=None, gives_logits=False)


def _tensor_name(key: str) -> str:
    """Return a name that every runtime takes: keys that are numbers or empty get a word."""
    plain = re.sub(r"\W", "_", key)
    return plain if plain[:1].isalpha() and plain != "input" else f"output{plain}"


def _giving(base: type[nn.Module], keys: tuple[str, ...]) -> type[nn.Module]:
    def forward(self: nn.Module, images: Tensor) -> Any:
        found = _by_name(base.forward(self, images))
        tensors = tuple(found[key] for key in keys)
        return tensors if len(tensors) > 1 else tensors[0]

    return type(base.__name__, (base,), {"forward": forward})
