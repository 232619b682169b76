"""Take off a module what training put around it and what computes its weights anew at every call.

Wrappers pass their input on: `torch.compile`, DataParallel, DistributedDataParallel, an averaged copy of the weights.
They answer as the module inside and take any arguments, which `torch.export` cannot trace. Reparametrizations of the
older kind (`torch.nn.utils.prune`, `weight_norm`, `spectral_norm`) keep their parts and let a hook compute the weight;
such a module cannot even be copied. In evaluation mode the weight is always the same, so it becomes a weight again, by
PyTorch's own functions. A parametrization of another kind (`orthogonal`, one's own) keeps its parts until its weights
are loaded; then what it gives is a weight, too, if it gives the same twice.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_WRAPPERS = dict.fromkeys(("DataParallel", "DistributedDataParallel", "AveragedModel"), "module")
_WRAPPERS["OptimizedModule"] = "_orig_mod"
"""Class of PyTorch to where it keeps what it wraps."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what PyTorch's wrappers around `module` call; a wrapper with hooks of its own is left."""
    kind = type(module)
    inside = _WRAPPERS.get(kind.__name__) if kind.__module__.partition(".")[0] == "torch" else None
    if inside is None or module._forward_hooks or module._forward_pre_hooks:
        return module
    return unwrapped(getattr(module, inside))


def plain_module(module: nn.Module) -> nn.Module:
    """Return a copy without wrappers whose weights are weights; `module` stays as it is.

    Whatever copying raises passes through: it runs the user's code.
    """
    inner = unwrapped(module)
    computed = {id(tensor): tensor.detach().clone() for tensor in _computed_tensors(inner)}
    result = copy.deepcopy(inner, computed)
    result.eval()
    for child in list(result.modules()):
        _store_weights(child)
    return result


def _computed_tensors(module: nn.Module) -> list[Tensor]:
    """Return the attributes that PyTorch refuses to copy, as they have a history."""
    attributes = (value for child in module.modules() for value in vars(child).values())
    return [value for value in attributes if isinstance(value, Tensor) and value.grad_fn is not None]


def _store_weights(module: nn.Module) -> None:
    """Make every weight that a known hook or parametrization computes a parameter, in place."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    found: Any = getattr(module, "parametrizations", None)
    if isinstance(found, nn.ModuleDict) and all(_is_known(parts) for parts in found.values()):
        _store_parametrized(module, found)


def store_computed_weights(module: nn.Module) -> None:
    """Make every weight that a parametrization computes a parameter, in place, once the parts have their values."""
    for child in list(module.modules()):
        found: Any = getattr(child, "parametrizations", None)
        if isinstance(found, nn.ModuleDict) and all(
            torch.equal(getattr(child, name), getattr(child, name)) for name in found
        ):
            _store_parametrized(child, found)


def _store_parametrized(module: nn.Module, found: nn.ModuleDict) -> None:
    weights = {name: getattr(module, name).detach() for name in found}
    del module._modules["parametrizations"]
    # PyTorch's own remove_parametrizations would take the weight off the class, which the caller's module shares.
    module.__class__ = type(module).__bases__[0]
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight))


def _is_known(parts: nn.Module) -> bool:
    """Tell whether a list of parametrizations is of a kind whose parts a file of weights may hold instead of it."""
    return isinstance(parts, ParametrizationList) and all(
        isinstance(part, (_WeightNorm, _SpectralNorm)) for part in parts
    )
