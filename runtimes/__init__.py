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
    from runtimes.inference.classification import Classification
    from runtimes.inference.load import load
    from runtimes.inference.model import Model
    from runtimes.metrics.logit_comparison import LogitComparison
    from runtimes.metrics.parity import compare
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.preprocessing.decode import read_image
    from runtimes.preprocessing.image_batches import load_batches
    from runtimes.preprocessing.transform import Preprocessing, preprocess
    from runtimes.protocol import Runtime, TensorSpec
    from runtimes.pytorch import TorchRuntime
    from runtimes.trt.adapter import TrtRuntime

__all__ = [
    "Classification",
    "LogitComparison",
    "Model",
    "OrtRuntime",
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
    "Classification": "runtimes.inference.classification",
    "LogitComparison": "runtimes.metrics.logit_comparison",
    "Model": "runtimes.inference.model",
    "OrtRuntime": "runtimes.ort.adapter",
    "Preprocessing": "runtimes.preprocessing.transform",
    "Runtime": "runtimes.protocol",
    "TensorSpec": "runtimes.protocol",
    "TorchRuntime": "runtimes.pytorch",
    "TrtRuntime": "runtimes.trt.adapter",
    "compare": "runtimes.metrics.parity",
    "load": "runtimes.inference.load",
    "load_batches": "runtimes.preprocessing.image_batches",
    "preprocess": "runtimes.preprocessing.transform",
    "read_image": "runtimes.preprocessing.decode",
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
