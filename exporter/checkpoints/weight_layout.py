"""The names and shapes of an architecture's weights, and which of them depend on the number of classes.

Built on PyTorch's "meta" device, which computes shapes without allocating anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from exporter.checkpoints.checkpoint import counts_batches
from exporter.errors import ModelObjectError

Shape = tuple[int | None, ...]
"""Sizes of one tensor; None where it is the number of classes."""

_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """A state dict without BatchNorm's `num_batches_tracked`: name to sizes, None in place of the number of classes."""

    shapes: Mapping[str, Shape]

    @property
    def classifier(self) -> tuple[str, ...]:
        """Names of the tensors that have the number of classes in their shape, sorted."""
        return tuple(sorted(name for name, shape in self.shapes.items() if None in shape))

    def num_classes_of(self, state_dict: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes that weights of this layout were trained for, or None if they do not say."""
        found = {
            int(state_dict[name].shape[self.shapes[name].index(None)])
            for name in self.classifier
            if name in state_dict and state_dict[name].ndim == len(self.shapes[name])
        }
        return found.pop() if len(found) == 1 else None

    @property
    def fingerprint(self) -> str:
        """A digest of all names and shapes; equal for two architectures that the same files fit."""
        return fingerprint(self.shapes)

    @property
    def body_fingerprint(self) -> str:
        """A digest of all names and shapes but the classifier's."""
        return fingerprint({name: shape for name, shape in self.shapes.items() if None not in shape})


def layout_of(build: Callable[[int], nn.Module]) -> WeightLayout:
    """Return the layout of what `build` makes of a number of classes.

    The tensors whose shape differs between 1000 and 1001 classes are the classifier's.
    """
    shapes, others = _shapes(build, 1000), _shapes(build, 1001)
    return WeightLayout(
        {
            name: tuple(size if size == other else None for size, other in zip(shape, others[name], strict=True))
            for name, shape in shapes.items()
        }
    )


def shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the sizes of each tensor but `num_batches_tracked`."""
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items() if not counts_batches(name)}


def fingerprint(shapes: Mapping[str, Shape]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the names and shapes, whatever their order."""
    text = json.dumps([[name, list(shapes[name])] for name in sorted(shapes)])
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]


class _NoDraws(TorchFunctionMode):
    """Leaves tensors of one kind as they are where initial weights would be drawn: half of the cost of building."""

    def __init__(self, kind: type[Tensor]) -> None:
        super().__init__()
        self._kind = kind

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            drawn = args[0] if args else (kwargs or {})["tensor"]
            if isinstance(drawn, self._kind):
                return drawn
        return func(*args, **(kwargs or {}))


_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.bernoulli_})


def without_values(build: Callable[[int], nn.Module], num_classes: int) -> nn.Module:
    """Return what `build` makes, on the "meta" device: names and shapes without values."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), _NoDraws(Tensor):
                return build(num_classes).eval()
        except (NotImplementedError, RuntimeError, ModelObjectError):
            # Some compute with values while they are built, as torchvision's RegNet its widths.
            return build(num_classes).eval().to("meta")


def without_draws(build: Callable[[int], nn.Module], num_classes: int) -> nn.Module | None:
    """Return what `build` makes with whatever was in memory for parameters, in evaluation mode, for weights to fill.

    None where it holds parameters or buffers that a state dict does not: nothing would fill those.
    """
    with _NoDraws(nn.Parameter):
        module = build(num_classes).eval()
    stored = module.state_dict().keys()
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return module if all(name in stored for name, _ in named) else None


def _shapes(build: Callable[[int], nn.Module], num_classes: int) -> dict[str, Shape]:
    return shapes_of(without_values(build, num_classes).state_dict())
