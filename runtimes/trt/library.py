"""The TensorRT or TensorRT-RTX library, imported when asked for, and its one logger.

TensorRT keeps the first logger that a process registers and ignores later ones, so builder and runtime share one per
flavor. It keeps warnings and errors instead of printing them: a failure carries TensorRT's own words.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from runtimes.errors import MissingDependencyError

FLAVOURS: Mapping[str, str] = MappingProxyType({"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"})
"""Flavour to module name."""

_KEPT_MESSAGES = 200
_TOLD_MESSAGES = 5


@dataclass(slots=True)
class TensorRtLog:
    """What TensorRT said in this process, newest last: (is an error, text), at most a few hundred."""

    entries: list[tuple[bool, str]] = field(default_factory=list)

    def add(self, *, is_error: bool, text: str) -> None:
        """Keep one message."""
        self.entries.append((is_error, text))
        del self.entries[:-_KEPT_MESSAGES]

    def clear(self) -> None:
        """Forget everything, at the start of a build or a load."""
        self.entries.clear()

    def warnings(self) -> tuple[str, ...]:
        """Return the texts of warnings, each once, in order."""
        return tuple(dict.fromkeys(text for is_error, text in self.entries if not is_error))

    def last_words(self) -> str:
        """Return the last errors, or the last messages of any kind, as one line."""
        errors = [text for is_error, text in self.entries if is_error]
        chosen = errors or [text for _, text in self.entries]
        return "; ".join(chosen[-_TOLD_MESSAGES:]) or "it gave no message"


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """One imported flavor.

    Attributes:
        flavor: "tensorrt" or "rtx".
        module: The imported module.
        logger: Its one logger in this process.
        log: What that logger heard.
    """

    flavor: str
    module: Any
    logger: Any
    log: TensorRtLog

    @property
    def version(self) -> str:
        """The library's version, such as "10.3.0"."""
        return str(self.module.__version__)


_LOADED: dict[str, TensorRtLibrary] = {}


def load_library(flavor: str) -> TensorRtLibrary:
    """Import a flavor, once per process.

    Args:
        flavor: "tensorrt" or "rtx".

    Raises:
        ValueError: If the flavor is unknown.
        MissingDependencyError: If the library is not installed or does not load.
    """
    if flavor not in FLAVOURS:
        raise ValueError(f"flavor: got {flavor!r}, expected one of {', '.join(FLAVOURS)}")
    try:
        module = importlib.import_module(FLAVOURS[flavor])
    except (ImportError, OSError) as err:  # OSError: a shared library of it is missing
        raise MissingDependencyError(
            f'{FLAVOURS[flavor]} is needed ({err}); pip install "resnet-export[{flavor}]", '
            "on a Jetson use JetPack's own Python packages"
        ) from err
    loaded = _LOADED.get(flavor)
    if loaded is None or loaded.module is not module:
        log = TensorRtLog()
        loaded = _LOADED[flavor] = TensorRtLibrary(flavor, module, _make_logger(module, log), log)
    return loaded


def _make_logger(trt: Any, log: TensorRtLog) -> Any:
    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT says instead of printing it."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                log.add(is_error=severity <= trt.ILogger.Severity.ERROR, text=msg)

    return CollectingLogger()
