"""Run a model and compare two of them: images in, logits out, on any runtime, without torch unless it is asked for.

    OrtRuntime       ONNX Runtime
    TorchRuntime     a PyTorch module: the reference
    compare          two runtimes on the same images: agreement, SQNR, top-1
    load_batches     a folder of images as prepared arrays

Importing this package imports NumPy and Pillow only; each adapter imports its library when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runtimes.image_batches import load_batches
from runtimes.parity import ParityReport, compare
from runtimes.preprocessing import Preprocessing, preprocess
from runtimes.protocol import Runtime, TensorSpec
from runtimes.read_image import read_image

if TYPE_CHECKING:
    from runtimes.ort import OrtRuntime
    from runtimes.pytorch import TorchRuntime

__all__ = [
    "OrtRuntime",
    "ParityReport",
    "Preprocessing",
    "Runtime",
    "TensorSpec",
    "TorchRuntime",
    "compare",
    "load_batches",
    "preprocess",
    "read_image",
]

_ADAPTERS = {"OrtRuntime": "runtimes.ort", "TorchRuntime": "runtimes.pytorch"}


def __getattr__(name: str) -> Any:
    """Import an adapter, and with it its library, when it is first named."""
    if name not in _ADAPTERS:
        raise AttributeError(f"module 'runtimes' has no attribute {name!r}")
    from runtimes.errors import MissingDependencyError

    try:
        return getattr(importlib.import_module(_ADAPTERS[name]), name)
    except ImportError as err:
        raise MissingDependencyError(
            f'{name} needs a library that is not installed ({err}); pip install "resnet-export[export]"'
        ) from err
