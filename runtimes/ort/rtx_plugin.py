"""ONNX Runtime's TensorRT-RTX provider, which is a plug-in: a package with a library of its own.

Its library asks for `libcudart.so.13`, which the wheel ships under its full version only, so the loader does not find
it: it is loaded here first, or the one of NVIDIA's own package. Source: onnxruntime-ep-nv-tensorrt-rtx 0.5.0, which
registers with onnxruntime and onnxruntime-gpu 1.31.1 alike.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from runtimes.machine.installed_versions import installed_versions
from runtimes.needed_library import needed_library
from runtimes.ort.session import PluginProvider

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
DISTRIBUTIONS = tuple(f"onnxruntime-ep-nv-tensorrt-rtx{suffix}" for suffix in ("-cu13", "-cu12", ""))
"""Under which names pip may know it; the last only brings one of the others."""

INPUT_SEPARATOR = ";"
"""Between the inputs of a profile; ONNX Runtime's own TensorRT provider has a comma there."""


def rtx_plugin(options: Mapping[str, str]) -> PluginProvider:
    """Return the plug-in with its options; CUDA's runtime library is loaded, where a package brings it.

    Raises:
        MissingDependencyError: If the plug-in is not installed or does not load.
    """
    package = needed_library(
        MODULE, f"{MODULE} is needed ({{err}}); pip install {DISTRIBUTIONS[-1]}, beside onnxruntime or onnxruntime-gpu"
    )
    library = Path(str(package.get_library_path()))
    load_cuda_runtime(library.parent)
    return PluginProvider(str(package.get_ep_name()), str(library), options)


def load_cuda_runtime(folder: Path) -> Path | None:
    """Load the CUDA runtime library that the plug-in wants, so that the loader knows it by name.

    Returns:
        What was loaded; None where no package brings one, and the system's is what is left.
    """
    for candidate in _cuda_runtimes(folder):
        with suppress(OSError):  # of another architecture, or damaged: the next one
            ctypes.CDLL(str(candidate), mode=ctypes.RTLD_GLOBAL)
            return candidate
    return None


def _cuda_runtimes(folder: Path) -> Iterator[Path]:
    """Yield the plug-in's own, newest first, then those of NVIDIA's packages."""
    yield from sorted(folder.glob("libcudart.so.*"), reverse=True)
    found = importlib.util.find_spec("nvidia")
    for home in (found.submodule_search_locations or ()) if found is not None else ():
        yield from sorted(Path(home).glob("*/lib/libcudart.so.1[0-9]"), reverse=True)


def plugin_version() -> str | None:
    """Return the version of the installed plug-in, under whichever name it came."""
    return next(iter(installed_versions(DISTRIBUTIONS).values()), None)
