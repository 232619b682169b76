"""The names that MODEL takes, known without importing torch, and which source makes each."""

from __future__ import annotations

import difflib

from exporter.errors import UnknownModelError

TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CIFAR_RESNETS = (
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_resnet1202",
)
MODEL_NAMES = (*TORCHVISION_RESNETS, *CIFAR_RESNETS)


def check_model_name(name: str) -> None:
    """Raise unless `name` is a model.

    Raises:
        UnknownModelError: With up to three near names, or all of them when none is near.
    """
    if name in MODEL_NAMES:
        return
    near = difflib.get_close_matches(name.lower(), MODEL_NAMES, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(MODEL_NAMES)}"
    raise UnknownModelError(f"unknown model {name!r}; {hint}")
