"""Libraries that do not go together, or answer wrongly, by name; the main job does not start with them.

pip only warns where an installation contradicts a requirement, and a container or a device often has its own torch. So
what is installed is looked at, from its metadata and before anything is imported, when a job begins.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exporter.errors import KnownBadLibrariesError
from runtimes.errors import MissingDependencyError
from runtimes.machine.installed_versions import installed_versions as versions_of
from runtimes.machine.version_numbers import version_numbers

Versions = Mapping[str, str]
"""Distribution name to installed version, such as "2.15.0" or "2.13.0+cpu"; what is not installed is not there."""

TORCH_OF_TORCHVISION = "torch that torchvision was built for"
"""Key of the one version of torch that torchvision's metadata asks for."""

MIN_PYTHON = (3, 11)
"""The Python of onnxruntime-gpu from 1.24 on, and so of the main job. Source: its metadata, Requires-Python."""

LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One combination: whether it is what is installed, what happens with it, what to type, and where that was seen."""

    name: str
    applies: Callable[[Versions], bool]
    consequence: str
    remedy: str
    source: str

    def __str__(self) -> str:
        """Name it, say what happens and where that was seen."""
        return f"{self.name}: {self.consequence} ({self.source})"


def _below(library: str, *bound: int) -> Callable[[Versions], bool]:
    return lambda versions: library in versions and version_numbers(versions[library]) < bound


def _torch_without_cuda_with_torchvision_of_pypi(versions: Versions) -> bool:
    # PyTorch's own index gives both the same label, as in 2.13.0+cpu and 0.28.0+cpu.
    return versions.get("torch", "").endswith("+cpu") and "+" not in versions.get("torchvision", "+")


def _torchvision_of_another_torch(versions: Versions) -> bool:
    installed, wanted = versions.get("torch", ""), versions.get(TORCH_OF_TORCHVISION, "")
    return bool(installed and wanted) and version_numbers(installed) != version_numbers(wanted)


def _two_onnxruntimes(versions: Versions) -> bool:
    both = versions.get("onnxruntime"), versions.get("onnxruntime-gpu")
    return None not in both and both[0] != both[1]


def _numpy_2_with_onnxruntime_for_numpy_1(versions: Versions) -> bool:
    runtimes = [versions[name] for name in ("onnxruntime", "onnxruntime-gpu") if name in versions]
    is_old = any(version_numbers(version) < (1, 19) for version in runtimes)
    return is_old and version_numbers(versions.get("numpy", "")) >= (2,)


_TORCH_PIN = re.compile(r"torch\s*\(?==\s*([\w.+]+)\)?\s*$")

_TORCH = "pip install -U torch torchvision"

OLD_ONNXRUNTIME = KnownBad(
    "onnxruntime below 1.30",
    lambda versions: _below("onnxruntime", 1, 30)(versions) or _below("onnxruntime-gpu", 1, 30)(versions),
    "on the CPU it rounds QuantizeLinear with FP16 scales down (1.2 / 0.01 gives 119), so that INT8 with FP16 is "
    "measured wrongly",
    'pip install "onnxruntime>=1.30"',
    "seen with 1.24.1, 1.26.0, 1.28.0 and 1.29.0: tests/exporter/passes/test_float16_qdq.py",
)
"""Version on a device with Python 3.10; `verify` does not judge INT8 with FP16 there."""

KNOWN_BAD: Sequence[KnownBad] = (
    KnownBad(
        "torch 2.9",
        lambda versions: version_numbers(versions.get("torch", ""))[:2] == (2, 9),
        "its ONNX exporter wrote a ResNet-18 with 0 % top-1 and a ResNet-50 with wrong biases, without a word",
        _TORCH,
        "pytorch issues 169178 and 166797",
    ),
    KnownBad(
        "torch without CUDA (+cpu) with torchvision of PyPI",
        _torch_without_cuda_with_torchvision_of_pypi,
        "`import torchvision` ends with: operator torchvision::nms does not exist",
        "pip uninstall -y torch torchvision && pip install torch torchvision",
        "seen with torch 2.13.0+cpu and torchvision 0.28.0",
    ),
    KnownBad(
        "torchvision made for another torch",
        _torchvision_of_another_torch,
        "torchvision's compiled operators are made for exactly one version of torch",
        _TORCH,
        "its own metadata asks for that one; what another does was not tried",
    ),
    KnownBad(
        "onnx below 1.22",
        _below("onnx", 1, 22),
        "its version converter loses the axes of ReduceMean, ReduceMax, ReduceMin and ReduceL2: a head written as "
        "x.mean((2, 3)) becomes one number over the whole batch",
        'pip install "onnx>=1.22"',
        "seen with onnx 1.20.0 and 1.21.0, right in 1.22.0: tests/exporter/tracing/test_trace.py",
    ),
    KnownBad(
        "onnxruntime and onnxruntime-gpu in different versions",
        _two_onnxruntimes,
        "both write into one folder, which now holds files of either",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        "each wheel's list of files: onnxruntime/ in both",
    ),
    KnownBad(
        "NumPy 2 with onnxruntime below 1.19",
        _numpy_2_with_onnxruntime_for_numpy_1,
        "`import onnxruntime` ends with: a module that was compiled using NumPy 1.x cannot be run in NumPy 2",
        "pip install -U onnxruntime",
        "seen with onnxruntime 1.18.0 and NumPy 2.2.0",
    ),
    OLD_ONNXRUNTIME,
)


def installed_versions() -> dict[str, str]:
    """Return the installed versions of `LIBRARIES`, and torchvision's pin, from metadata; nothing is imported."""
    from importlib import metadata  # here: it is slow to import, and `--help` needs none

    found = versions_of(LIBRARIES)
    if "torchvision" in found:
        for requirement in metadata.requires("torchvision") or ():
            if pin := _TORCH_PIN.match(requirement):
                found[TORCH_OF_TORCHVISION] = pin[1]
    return found


def known_bad_among(versions: Versions) -> tuple[KnownBad, ...]:
    """Return the combinations that are installed."""
    return tuple(one for one in KNOWN_BAD if one.applies(versions))


def refuse_known_bad() -> None:
    """Look at this Python, and at what is installed.

    Raises:
        KnownBadLibrariesError: If a combination that is known to go wrong is installed.
        MissingDependencyError: If Python is too old to export with, or ONNX or ONNX Runtime is missing.
    """
    if sys.version_info < MIN_PYTHON:
        raise MissingDependencyError(
            f"exporting needs Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer, this is {platform.python_version()}: "
            "export on a machine that has it and copy the bundle, which this one reads and runs"
        )
    if missing := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(
            f'exporting needs {" and ".join(missing)}, not installed here; pip install "resnet-export[export]", and '
            "torch with it"
        )
    versions = installed_versions()
    found = known_bad_among(versions)
    if not found:
        return
    have = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    told = "\n".join(f"- {one}\n  {one.remedy}" for one in found)
    raise KnownBadLibrariesError(f"libraries that are known to go wrong are installed ({have}):\n{told}")
