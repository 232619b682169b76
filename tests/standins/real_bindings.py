"""TensorRT's real Python bindings from PyPI, importable where neither libnvinfer nor a GPU is.

A wheel of bindings is 1 MB and holds every class, method and enum of its version; what it lacks are a dozen C functions
of libnvinfer. `nvinfer_shim.c` has them. One process can import one version: pybind11 registers the C++ types once.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu13-bindings==10.13.3.9.post1",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
"""Version to the pinned requirement whose bindings speak for it."""

LEAN_PACKAGES = {
    "lean-11.4": "tensorrt-lean-cu13-bindings==11.4.0.106",
    "dispatch-11.4": "tensorrt-dispatch-cu13-bindings==11.4.0.106",
}
"""The same of the libraries that only load engines."""

SHIM = Path(__file__).with_name("nvinfer_shim.c")
CACHE = Path(__file__).parents[2] / ".bindings"
"""Where this checkout keeps them; git ignores it."""

DOWNLOAD_TIMEOUT_S = 120

_MODULE = """import ctypes
from pathlib import Path

for _library in sorted(Path(__file__).parents[1].glob("libnv*")):
    ctypes.CDLL(str(_library), ctypes.RTLD_GLOBAL)

from {name}_bindings import *
from {name}_bindings import __version__
"""
"""The module around the wheel's own: it loads the shim first."""


class BindingsUnavailableError(Exception):
    """The bindings cannot be had here; the message says why, in words for a skipped test."""


def bindings_folder(version: str, cache: Path) -> Path:
    """Return a folder for PYTHONPATH whose `tensorrt` is the real one of a version; download and build it if need be.

    Args:
        version: A key of `PACKAGES` or `LEAN_PACKAGES`.
        cache: Where the folders are kept, one per version, whole or absent.

    Raises:
        BindingsUnavailableError: Without a C compiler, readelf, the network, or a wheel for this Python.
    """
    requirement = {**PACKAGES, **LEAN_PACKAGES}[version]
    folder = cache / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    for tool in ("gcc", "readelf"):
        if shutil.which(tool) is None:
            raise BindingsUnavailableError(f"{tool} is not installed, which the real bindings of {version} need")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as unfinished:
        made = Path(unfinished) / "bindings"
        _download(requirement, made)
        name = module_of(version)
        for library in _needed(made / f"{name}_bindings" / f"{name}.so"):
            _compile(made / library)
        (made / name).mkdir()
        (made / name / "__init__.py").write_text(_MODULE.format(name=name))
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def module_of(version: str) -> str:
    """Return the name of the module that a version's bindings are, such as "tensorrt_lean"."""
    return "tensorrt" if version in PACKAGES else f"tensorrt_{version.partition('-')[0]}"


def forwarding() -> dict[str, str]:
    """Return the environment variables that make the shim build with TensorRT-RTX.

    Raises:
        BindingsUnavailableError: If TensorRT-RTX is not installed.
    """
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or found.origin is None:
        raise BindingsUnavailableError("tensorrt_rtx is not installed, on whose builder the real bindings would build")
    libraries = Path(found.origin).parent
    names = {"SHIM_BUILDER": "libtensorrt_rtx.so.1", "SHIM_PARSER": "libtensorrt_onnxparser_rtx.so.1"}
    return {variable: str(libraries / name) for variable, name in names.items()}


def run_with_bindings(
    folder: Path, *words: str, forward: bool = False, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Python with the real `tensorrt` of `folder` first on its path; output is captured as text."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(SHIM.parents[2])])
    environment = {**os.environ, "PYTHONPATH": path, **(forwarding() if forward else {})}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def _download(requirement: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        try:
            done = subprocess.run(
                [*command, "--dest", wheels, requirement],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BindingsUnavailableError(f"{requirement} did not come within {DOWNLOAD_TIMEOUT_S} s") from None
        found = sorted(Path(wheels).glob("*.whl"))
        if done.returncode or not found:
            words = done.stderr.strip().splitlines() or ["pip gave no wheel"]
            raise BindingsUnavailableError(f"{requirement} cannot be downloaded: {words[-1]}")
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(folder)


def _needed(library: Path) -> list[str]:
    """Return the names of NVIDIA's libraries that a shared library wants to be loaded with."""
    told = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(libnv[^\]]+)\]", told)


def _compile(library: Path) -> None:
    words = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), f"-Wl,-soname,{library.name}", str(SHIM), "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
