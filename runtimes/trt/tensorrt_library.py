"""The TensorRT or TensorRT-RTX library, imported when asked for, and its one logger.

TensorRT keeps the first logger that a process registers and ignores later ones, so builder and runtime share one per
flavor. It keeps warnings and errors instead of printing them: a failure carries TensorRT's own words.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtimes.errors import MissingDependencyError, ProviderUnavailableError

FLAVOURS: Mapping[str, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Flavor, of what builds an engine, to module name."""

LEAN_LIBRARIES: Mapping[str, str] = {"lean": "tensorrt_lean", "dispatch": "tensorrt_dispatch"}
"""TensorRT's libraries that only load version-compatible engines, to module name: the lean one runs them itself
(44 MB), the dispatch one with the lean runtime that the engine carries (0.3 MB). Source: wheels of 11.4."""

_KEPT_MESSAGES = 200
_TOLD_MESSAGES = 5


@dataclass(slots=True)
class TensorRtLog:
    """Messages of TensorRT in this process, newest last: (is an error, text), at most a few hundred."""

    entries: list[tuple[bool, str]] = field(default_factory=list)
    layer_list: str = ""
    """The layers of the last build, as TensorRT-RTX lists them; "" where the library does not."""

    def add(self, *, is_error: bool, text: str) -> None:
        """Keep one message."""
        self.entries.append((is_error, text))
        del self.entries[:-_KEPT_MESSAGES]

    def clear(self) -> None:
        """Forget everything, at the start of a build or a load."""
        self.entries.clear()
        self.layer_list = ""

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
    """One imported library, its one logger in this process, and what that heard."""

    flavor: str
    module: Any
    logger: Any
    log: TensorRtLog

    @property
    def version(self) -> str:
        """The library's version, such as "10.3.0"."""
        return base_version(str(self.module.__version__))


def base_version(version: str) -> str:
    """Return a version without the number of its packaging: PyPI's 10.13.3.9.post1 is the library 10.13.3.9."""
    return re.sub(r"\.post\d+$", "", version)


def start_runtime(library: TensorRtLibrary) -> Any:
    """Return TensorRT's runtime, which loads engines.

    The driver must have been asked before: without one the full library returns nothing, and the lean and dispatch
    libraries return an object that ends the process when it is used. Source: the libraries of 10.13 and 11.4, run
    without a driver.

    Raises:
        ProviderUnavailableError: If TensorRT does not start; in its own words.
    """
    try:
        return library.module.Runtime(library.logger)
    except TypeError as err:  # pybind11's way to say that the factory returned nothing
        raise ProviderUnavailableError(
            f"{library.flavor} {library.version} does not start: {library.log.last_words()}; see nvidia-smi and "
            "resnet-export doctor"
        ) from err


def allow_host_code(runtime: Any) -> None:
    """Let TensorRT run the lean runtime that a version-compatible plan holds: code, so only of a plan we know."""
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True


_LOADED: dict[str, TensorRtLibrary] = {}


def built_flavor(flavor: str) -> str:
    """Return the flavor of the engines that a library loads."""
    return "tensorrt" if flavor in LEAN_LIBRARIES else flavor


def library_for(flavor: str, *, version_compat: bool) -> str:
    """Return which library opens an engine of a flavor here.

    For a version-compatible engine of TensorRT that is the full library, or where that is not installed the lean one,
    or the dispatch one; for every other engine its own.
    """
    if flavor != "tensorrt" or not version_compat or is_installed(flavor):
        return flavor
    return next((name for name in LEAN_LIBRARIES if is_installed(name)), flavor)


def is_installed(flavor: str) -> bool:
    """Tell whether a library is there, without importing it."""
    return any(map(_is_there, _names({**FLAVOURS, **LEAN_LIBRARIES}[flavor])))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module in sys.modules without a spec, or None there
        return sys.modules.get(module) is not None


def _names(module: str) -> tuple[str, ...]:
    """Return under which names a module may be installed: pip's wheels of bindings come without the package around."""
    return (module, f"{module}_bindings") if module in LEAN_LIBRARIES.values() else (module,)


def load_library(flavor: str) -> TensorRtLibrary:
    """Import a library, once per process.

    Raises:
        ValueError: If the flavor is unknown.
        MissingDependencyError: If the library is not installed or does not load.
    """
    known = {**FLAVOURS, **LEAN_LIBRARIES}
    if flavor not in known:
        raise ValueError(f"flavor: got {flavor!r}, expected one of {', '.join(known)}")
    module = _import(flavor, known[flavor])
    loaded = _LOADED.get(flavor)
    if loaded is None or loaded.module is not module:
        log = TensorRtLog()
        loaded = _LOADED[flavor] = TensorRtLibrary(flavor, module, _make_logger(module, log), log)
    return loaded


def _import(flavor: str, name: str) -> Any:
    errors: list[ImportError | OSError] = []
    for candidate in _names(name):
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError) as err:  # OSError: a shared library of it is missing
            errors.append(err)
            continue
        if hasattr(module, "Runtime"):
            return module
        errors.append(ImportError(f"{candidate} is there and holds nothing: an empty placeholder of a package"))
    package = f"tensorrt-{flavor}-cu13"
    install = f"pip install {package}-libs {package}-bindings (cu12 for CUDA 12)"
    if flavor in FLAVOURS:
        install = f'pip install "resnet-export[{flavor}]"'
    raise MissingDependencyError(
        f"{name} is needed ({errors[0]}); {install}, on a Jetson use JetPack's own Python packages"
    ) from errors[0]


def _make_logger(trt: Any, log: TensorRtLog) -> Any:
    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT says instead of printing it."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                log.add(is_error=severity <= trt.ILogger.Severity.ERROR, text=msg)
            elif msg.startswith("Layers:"):  # at VERBOSE, once, at the end of a build
                log.layer_list = msg

    return CollectingLogger()
