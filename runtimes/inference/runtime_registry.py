"""The runtimes by name: the one place that `load`, `verify`, `classify`, `bench` and `doctor` ask.

One from outside is registered by `RUNTIMES.register`, or declared as an entry point of the group
"resnet_export.runtimes"; see docs/extending.
"""

from __future__ import annotations

from runtimes.inference.runtime_kind import RuntimeKind
from runtimes.registry import Registry

AUTO = "auto"
"""The word that leaves the choice to `select_file`."""

RUNTIMES: Registry[RuntimeKind] = Registry(
    "runtime",
    RuntimeKind,
    group="resnet_export.runtimes",
    builtin={
        "cpu": "runtimes.inference.onnxruntime_kinds:CPU",
        "cuda": "runtimes.inference.onnxruntime_kinds:CUDA",
        "tensorrt": "runtimes.inference.tensorrt_kinds:TENSORRT",
        "tensorrt-rtx": "runtimes.inference.tensorrt_kinds:TENSORRT_RTX",
        "ort-tensorrt": "runtimes.inference.onnxruntime_kinds:ORT_TENSORRT",
        "ort-tensorrt-rtx": "runtimes.inference.onnxruntime_kinds:ORT_TENSORRT_RTX",
        "openvino": "runtimes.inference.openvino_kind:OPENVINO",
    },
)
"""The word of `--provider` to the runtime."""


def runtime_word(text: str) -> str:
    """Return the word of a runtime, or "auto", for what somebody wrote: the word itself, or another name of it.

    Raises:
        ValueError: If there is none; the message lists all words.
        RegistryError: If another package declares it and cannot be imported.
    """
    if text == AUTO or text in RUNTIMES:
        return text
    for word in RUNTIMES:
        if text in RUNTIMES[word].aliases:
            return word
    raise ValueError(f"provider: got {text!r}, expected one of {', '.join((AUTO, *RUNTIMES))}")


def word_of_flavor(flavor: str) -> str | None:
    """Return the word of the runtime that runs engines of a flavor, None where no runtime does."""
    return next((word for word in RUNTIMES if RUNTIMES[word].engine_flavor == flavor), None)
