"""Libraries that only some steps need, imported when one of these begins."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtimes.errors import MissingDependencyError

_EXPORT = '"resnet-export[export]"'
_INSTALL = dict.fromkeys(
    ("google", "onnx", "onnxscript", "safetensors", "threadpoolctl", "torch", "torchvision"), _EXPORT
)
_INSTALL |= {"onnxruntime": "onnxruntime, or onnxruntime-gpu for an NVIDIA GPU", "timm": '"resnet-export[timm]"'}
"""Module that a plain install leaves out to what is typed for it."""


def missing_library(err: ImportError) -> MissingDependencyError | None:
    """Return what to tell of an import that failed; None where it is of no library that a plain install leaves out."""
    module = (err.name or "").partition(".")[0]
    if not isinstance(err, ModuleNotFoundError) or module not in _INSTALL:
        return None
    library = "onnx" if module == "google" else module  # protobuf, which onnx reads files with
    return MissingDependencyError(
        f"this needs {library}, which is not installed ({err}); pip install {_INSTALL[module]}"
    )


@contextmanager
def naming_missing_libraries() -> Iterator[None]:
    """Let what is done inside raise a MissingDependencyError where a library is not installed."""
    try:
        yield
    except ModuleNotFoundError as err:
        if told := missing_library(err):
            raise told from err
        raise


def needed_library(name: str, message: str) -> Any:
    """Import a module; "{err}" in `message`, which says what needs it and what to type, becomes what Python says.

    Raises:
        MissingDependencyError: If it is not installed, or a shared library of it is missing.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as err:  # OSError: a shared library of it is missing
        raise MissingDependencyError(message.replace("{err}", str(err))) from err
