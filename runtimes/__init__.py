"""Run a model and compare two of them: images in, logits out, on any runtime, without torch unless it is asked for.

    load             a bundle, an ONNX file or an engine, opened for an app: run, classify, batcher
    OrtRuntime       ONNX Runtime
    TrtRuntime       a TensorRT or TensorRT-RTX engine
    TorchRuntime     a PyTorch module: the reference
    compare          two runtimes on the same images: agreement, SQNR, top-1
    load_batches     a folder of images as prepared arrays

Importing this package imports nothing; each name imports what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtimes.answers import Classification
    from runtimes.image_batches import load_batches
    from runtimes.image_file import read_image
    from runtimes.load_model import load
    from runtimes.model import Model
    from runtimes.ort import OrtRuntime
    from runtimes.parity import ParityReport, compare
    from runtimes.preprocessing import Preprocessing, preprocess
    from runtimes.protocol import Runtime, TensorSpec
    from runtimes.pytorch import TorchRuntime
    from runtimes.trt import TrtRuntime

__all__ = [
    "Classification",
    "Model",
    "OrtRuntime",
    "ParityReport",
    "Preprocessing",
    "Runtime",
    "TensorSpec",
    "TorchRuntime",
    "TrtRuntime",
    "compare",
    "load",
    "load_batches",
    "preprocess",
    "read_image",
]

_HOMES = {
    "Classification": "runtimes.answers",
    "Model": "runtimes.model",
    "OrtRuntime": "runtimes.ort",
    "ParityReport": "runtimes.parity",
    "Preprocessing": "runtimes.preprocessing",
    "Runtime": "runtimes.protocol",
    "TensorSpec": "runtimes.protocol",
    "TorchRuntime": "runtimes.pytorch",
    "TrtRuntime": "runtimes.trt",
    "compare": "runtimes.parity",
    "load": "runtimes.load_model",
    "load_batches": "runtimes.image_batches",
    "preprocess": "runtimes.preprocessing",
    "read_image": "runtimes.image_file",
}


def __getattr__(name: str) -> Any:
    """Import a name's module, and with it the library it wraps, when it is first named."""
    if name not in _HOMES:
        raise AttributeError(f"module 'runtimes' has no attribute {name!r}")
    from runtimes.errors import MissingDependencyError

    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ImportError as err:
        raise MissingDependencyError(
            f'{name} needs a library that is not installed ({err}); pip install "resnet-export[export]"'
        ) from err
