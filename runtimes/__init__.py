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

from typing import TYPE_CHECKING, Any

from runtimes.lazy_names import lazy_names

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

_by_name = lazy_names(
    __name__,
    {
        "runtimes.inference.classification": ("Classification",),
        "runtimes.inference.load": ("load",),
        "runtimes.inference.model": ("Model",),
        "runtimes.metrics.logit_comparison": ("LogitComparison",),
        "runtimes.metrics.parity": ("compare",),
        "runtimes.ort.adapter": ("OrtRuntime",),
        "runtimes.preprocessing.decode": ("read_image",),
        "runtimes.preprocessing.image_batches": ("load_batches",),
        "runtimes.preprocessing.transform": ("Preprocessing", "preprocess"),
        "runtimes.protocol": ("Runtime", "TensorSpec"),
        "runtimes.pytorch": ("TorchRuntime",),
        "runtimes.trt.adapter": ("TrtRuntime",),
    },
)


def __getattr__(name: str) -> Any:
    """Import a name's module, and with it the library it wraps, when it is first named."""
    from runtimes.errors import MissingDependencyError
    from runtimes.needed_library import missing_library

    try:
        return _by_name(name)
    except ImportError as err:
        raise missing_library(err) or MissingDependencyError(
            f'{name} needs a library that is not installed ({err}); pip install "resnet-export[export]"'
        ) from err
